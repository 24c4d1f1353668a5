"""tranship moves virtual machines from VMware vSphere and oVirt to KubeVirt or a plain KVM host, and proves the data."""

__version__ = "0.1.0"
