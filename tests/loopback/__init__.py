"""A control plane on loopback that stands in for a Flyte cluster. For tests only; it is in no wheel.

`handle.Plane` starts it from a test, ``python -m loopback`` in ``tests`` by hand. It is a process of its own:

| file | what it owns |
|---|---|
| `handle` | the process as a test sees it: endpoint, faults, calls seen |
| `__main__`, `plane` | the process from inside: ports, applications, the end |
| `wire` | the port that clients talk to, which can be slow, lost and back |
| `faults` | what can go wrong on purpose |
| `runs`, `dataproxy`, `nested` | the services, on the server classes of ``flyteidl2`` |
| `records` | runs, actions and attempts, and how they look on the wire |
| `kubelet` | the life of an action: attempts, retries, time limits, aborts |
| `pods` | one process of the SDK's ``a0`` for each attempt, its output and its limits |
| `image` | the files that a pod sees |
| `bucket` | the object store, and its signed addresses |

It has no scheduler, no authentication and no TLS. That something works here does not prove that it does on a cluster.
"""
