#!/usr/bin/env bash
# Builds each folder of kubernetes/ by kustomize, as docs/kubernetes.md uses them, and checks every object against the
# schemas of Kubernetes and of the Prometheus operator: misspelt fields and wrong types are errors.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/own" "$work/stateful"
ln -s "$PWD" "$work/sources"

# The folder of your own that the document shows.
sed -n '/^# kustomization.yaml; PATH/,/^```/p' docs/kubernetes.md | sed '/^```/d; s#PATH#../sources#' >"$work/own/kustomization.yaml"
# And one with a StatefulSet for the sidecar.
cat >"$work/stateful/kustomization.yaml" <<'YAML'
resources: [statefulset.yaml]
components: [../sources/kubernetes/sidecar]
YAML
cat >"$work/stateful/statefulset.yaml" <<'YAML'
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: kafka
  labels: {app.kubernetes.io/name: kafka}
spec:
  serviceName: kafka
  selector: {matchLabels: {app.kubernetes.io/name: kafka}}
  template:
    metadata: {labels: {app.kubernetes.io/name: kafka}}
    spec:
      containers: [{name: kafka, image: kafka, volumeMounts: [{name: data, mountPath: /data}]}]
      volumes: [{name: data, emptyDir: {}}]
YAML
actionlint

# conforms FILE WHAT: checks the objects in FILE, which are those of WHAT.
conforms() {
    kubeconform -strict -summary -schema-location "$cache/schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$1" || die "$2"
}
for folder in kubernetes/{base,monitoring,namespace,strimzi} "$work/own" "$work/stateful"; do
    kustomize build "$folder" >"$work/objects.yaml"
    conforms "$work/objects.yaml" "$folder"
done
conforms kubernetes/strimzi/networkpolicy.yaml kubernetes/strimzi/networkpolicy.yaml
