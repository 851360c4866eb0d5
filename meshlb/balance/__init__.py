"""Which one? One file a policy: its configuration, the policy, its picker, in this order."""
