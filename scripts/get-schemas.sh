#!/usr/bin/env bash
# Puts JSON schemas where kubeconform finds them, as KIND-GROUP-VERSION.json: those of Kubernetes from a Python package,
# those of the Prometheus operator's objects from its Go module. scripts/get-schemas.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quietly python3 -m pip install --quiet --disable-pip-version-check --target "$work/python" kubernetes-validate==1.37.0 pyyaml
operator=$(cd "$work" && go mod download -json github.com/prometheus-operator/prometheus-operator@v0.85.0 |
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
PYTHONPATH=$work/python python3 - "$work" "$operator" <<'PY'
import json, pathlib, sys

import yaml

work, operator = map(pathlib.Path, sys.argv[1:])
out = work / "schemas"
out.mkdir()

# Its references begin at a server that is not there: without an id they are relative to the file.
folder = work / "python/kubernetes_validate/kubernetes-json-schema/v1.34.0-local-strict"
for file in folder.glob("*.json"):
    schema = json.loads(file.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
    schema.pop("$id", None)
    (out / file.name).write_text(json.dumps(schema))


def strict(schema):
    """An API server drops unknown fields silently; here they are errors."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)


for name in "podmonitors", "prometheusrules":
    crd = yaml.safe_load((operator / f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml").read_text())
    for version in crd["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        strict(schema)
        kind = crd["spec"]["names"]["kind"].lower()
        (out / f"{kind}-monitoring-{version['name']}.json").write_text(json.dumps(schema))
PY
rm -rf "$1"
mv "$work/schemas" "$1"
