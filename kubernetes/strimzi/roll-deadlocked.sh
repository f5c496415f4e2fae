#!/bin/sh
# Has Strimzi's operator roll the one pod whose broker only a restart cures; docs/liveness.md says how to run it:
#   roll-deadlocked.sh NAMESPACE-OF-THE-BROKERS [NAMESPACE-OF-THE-EXPORTERS]
# It asks the exporter on the broker's node by `kafka-vitals live`, which ends with 1 on that verdict alone. Anything else
# leaves the pod as it is. kubectl has to list pods in both namespaces and to patch them in the first.
set -eu

brokers=${1:?usage: roll-deadlocked.sh NAMESPACE-OF-THE-BROKERS [NAMESPACE-OF-THE-EXPORTERS]}
exporters=${2:-kafka-vitals}
annotation=strimzi.io/manual-rolling-update

pods=$(kubectl get pods -n "$brokers" -l strimzi.io/broker-role=true --field-selector status.phase=Running \
    -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.metadata.annotations.strimzi\.io/manual-rolling-update}{"\n"}{end}')
while read -r pod node asked; do
    # The operator removes the annotation when it has rolled the pod.
    if [ -z "$pod" ] || [ -n "$asked" ]; then continue; fi
    addresses=$(kubectl get pods -n "$exporters" -l app.kubernetes.io/name=kafka-vitals \
        --field-selector "spec.nodeName=$node,status.phase=Running" -o 'jsonpath={.items[*].status.podIP}')
    address=${addresses%% *}
    case $address in
    '')
        echo "$pod: no exporter runs on $node" >&2
        continue
        ;;
    *:*) address="[$address]" ;;
    esac
    status=0
    # The number at the end of the pod's name is the broker's id.
    kafka-vitals live --address "$address:10052" --broker "${pod##*-}" </dev/null || status=$?
    [ "$status" -ne 1 ] || kubectl annotate pod -n "$brokers" "$pod" "$annotation=true" </dev/null
done <<PODS
$pods
PODS
