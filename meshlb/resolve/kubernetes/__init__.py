"""EndpointSlices and Services from the Kubernetes API: the wire, the reduction, the decisions, and their drivers.

Pure: ``fields``, ``wire``, ``refusal``, ``versions``, ``requests``, ``slices``, ``watch``, ``backoff``, ``rbac``. Drivers on the
discovery thread and its helpers: ``feed``, ``stream``, ``source``. I/O: ``transport`` (the seam), ``api_client``, ``connections``,
``credentials``, ``auth``.
"""
