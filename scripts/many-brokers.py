#!/usr/bin/env python3
"""many-brokers.py METRICS BROKERS: from what one exporter served, a quarter of an hour of a cluster with so many brokers,
as OpenMetrics for `promtool tsdb create-blocks-from openmetrics`. The dashboards are drawn with it (docs/prometheus.md):
each broker is the recorded one that is well, but for a few that differ as the list below says."""

import re
import sys
import time

STEP, TIME = 30, 900
# The recorded broker that is well; its clients and limits differ from broker to broker.
WELL = "217"
# What differs: broker, from which second on, and the state.
SICK = [(17, 300, "gray"), (58, 420, "ended"), (101, 240, "starting"), (133, 600, "suspect")]

# What the recording lacks.
LACKS = [
    ("kafka_vitals_log_dir_free_bytes", {"dir": "/data"}, 4e11),
    ("kafka_vitals_log_dir_size_bytes", {"dir": "/data"}, 1e12),
    ("kafka_vitals_log_dir_exhaustion_seconds", {"dir": "/data"}, float("inf")),
    ("kafka_vitals_file_handle_exhaustion_seconds", {}, float("inf")),
    ("kafka_vitals_pool_cpu_seconds_total", {"pool": "request_handler"}, 100.0),
    ("kafka_vitals_pool_cpu_seconds_total", {"pool": "network"}, 60.0),
    ("kafka_vitals_pool_run_queue_seconds_total", {"pool": "request_handler"}, 1.0),
    ("kafka_vitals_under_min_isr_partitions", {}, 0.0),
    ("kafka_vitals_metadata_log_age_seconds", {}, 0.3),
    ("kafka_vitals_cluster_brokers", {"state": "registered"}, 200.0),
    ("kafka_vitals_cluster_brokers", {"state": "fenced"}, 0.0),
]

SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def labels_of(text):
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', text or ""))


def state_at(broker, second):
    for sick, since, state in SICK:
        if broker == sick and second >= since:
            return state
    return "healthy"


def value_at(name, labels, value, broker, second):
    """The value of one series, by what should be seen of it."""
    spread = 1 + broker * 37 % 100 / 100
    state = state_at(broker, second)
    if name == "kafka_vitals_broker_state":
        return float(labels["state"] == state)
    if name == "kafka_vitals_finding_active":
        active = {"gray": ["jvm_deadlock", "stalled_pool", "close_wait_pileup"], "suspect": ["partial_stall"]}
        return float(labels["finding"] in active.get(state, []))
    if name == "kafka_vitals_open_file_handles":
        grown = (second - 300) * 1.2 if state == "gray" else 0
        return value * spread + grown
    if name == "kafka_vitals_file_handle_exhaustion_seconds" and state == "gray":
        return max(60.0, 1200.0 - second)
    if name == "kafka_vitals_log_dir_free_bytes":
        return value * (2.1 - spread)
    if "_pool_" in name:
        return value + second * (0.02 if "run_queue" in name else 0.3) * spread
    if name == "kafka_vitals_cluster_brokers":
        out = sum(state_at(sick, second) in ("ended", "starting") for sick, _, _ in SICK)
        return value - out if labels["state"] == "registered" else float(out)
    if name.endswith("_total") and broker == 17 and labels.get("signature") == "peer_disconnected":
        return value + max(0, second - 300) // 30
    if name == "kafka_vitals_under_replicated_partitions":
        return float(any(state_at(other, second) in ("ended", "gray") for other in (broker - 1, broker + 1)) * 12)
    return value


def main():
    recorded, number = open(sys.argv[1], encoding="utf-8"), int(sys.argv[2])
    host, own = [], []
    for line in recorded:
        found = SERIES.match(line)
        if not found:
            continue
        name, labels, value = found[1], labels_of(found[2]), float(found[3])
        if labels.get("broker") == WELL:
            own.append((name, labels, value))
        elif "broker" not in labels:
            host.append((name, labels, value))
    for state in ("starting", "closed", "ended"):
        if not any(labels.get("state") == state for name, labels, _ in own if name.endswith("_broker_state")):
            own.append(("kafka_vitals_broker_state", {"broker": WELL, "state": state}, 0.0))
    own += [(name, dict(labels, broker=WELL), value) for name, labels, value in LACKS]
    families = {}
    start = int(time.time()) - TIME
    for broker in range(1, number + 1):
        target = {"job": "kafka-vitals", "cluster": "orders", "instance": f"kafka-{broker}:10052"}
        series = [("up", {}, 1.0)] + host + own
        for peer in range(broker + 1, broker + 9):
            for stage in ("connect", "api"):
                labels = {"broker": WELL, "peer": str((peer - 1) % number + 1), "stage": stage}
                series.append(("kafka_vitals_peer_probe_success", labels, 1.0))
        for name, labels, value in series:
            shown = dict(labels, **target)
            if "broker" in labels:
                shown["broker"] = str(broker)
            for second in range(0, TIME + 1, STEP):
                # They are upgraded one after the other.
                if name == "kafka_vitals_broker_info":
                    shown["kafka_version"] = "3.9.1" if second * number > broker * TIME else "3.8.1"
                text = ",".join(f'{label}="{of}"' for label, of in sorted(shown.items()))
                own_value = value_at(name, labels, value, broker, second)
                if name == "kafka_vitals_peer_probe_success":
                    silent = state_at(int(labels["peer"]), second) in ("gray", "ended")
                    own_value = float(not silent or (labels["stage"] == "connect" and labels["peer"] == "17"))
                families.setdefault(name, []).append(f"{name}{{{text}}} {own_value!r} {start + second}")
    for name, lines in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        print(f"# TYPE {name.removesuffix('_total')} {kind}")
        print("\n".join(line.replace("} inf ", "} +Inf ") for line in lines))
    print("# EOF")


main()
