"""Conversion: upstream's record of one guest conversion. Accepted and kept whole; the fields that nobody here reads are
free-form."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from tranship.resources.meta import CONVERSION, Kind, ObjectReference, Resource, Status
from tranship.resources.model import Model


class Connection(Model):
    secret: ObjectReference


class ConversionSpec(Model):
    type: Literal["DeepInspection", "Inspection", "InPlace", "Remote"]
    connection: Connection
    vm: dict[str, Any]


class ConversionStatus(Status):
    phase: str = ""
    stage: str = ""


def _nothing() -> ConversionSpec:
    return ConversionSpec.model_construct(type="", connection=Connection(secret=ObjectReference()), vm={})


class Conversion(Resource):
    """One conversion of a guest."""

    KIND: ClassVar[Kind] = CONVERSION
    spec: ConversionSpec = Field(default_factory=_nothing)
    status: ConversionStatus = Field(default_factory=ConversionStatus)
