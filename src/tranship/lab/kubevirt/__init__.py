"""A stand-in for KubeVirt and CDI on a genuine Kubernetes cluster, whose programs cannot be had everywhere."""

from tranship.lab.kubevirt.lab import KubeVirt
from tranship.lab.kubevirt.provisioner import StorageClass

__all__ = ["KubeVirt", "StorageClass"]
