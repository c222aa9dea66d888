"""Networks that misbehave: real processes in network namespaces of this kernel."""
