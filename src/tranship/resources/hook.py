"""Hook: a program that is to run before or after a VM moves. Kept; plans that use hooks are refused (unacted.py)."""

from typing import ClassVar

from pydantic import Field

from tranship.resources.meta import HOOK, Kind, ObjectReference, Resource
from tranship.resources.model import Model


class AapSpec(Model):
    """A job template of an automation controller, instead of image and playbook."""

    job_template_id: int
    url: str = ""
    token_secret: ObjectReference | None = None
    timeout: int = 0


class HookSpec(Model):
    image: str = ""
    playbook: str = ""
    """Ansible playbook in base64."""
    service_account: str = ""
    deadline: int = 0
    """Seconds."""
    aap: AapSpec | None = None


class Hook(Resource):
    """A program that runs before or after a virtual machine moves."""

    KIND: ClassVar[Kind] = HOOK
    spec: HookSpec = Field(default_factory=HookSpec)
