"""Secret (core v1): credentials of providers and hosts. Its values never show in repr or error text.

`stringData` wins over `data`, as it does on an API server. Keys by type of provider: user, password, token, url,
thumbprint, insecureSkipVerify; the CA bundle is accepted as ca.crt and as cacert, whatever the type.
"""

import base64
import binascii
from typing import Any, ClassVar

from pydantic import Field

from tranship.errors import Invalid
from tranship.resources.meta import SECRET, Kind, Resource


class Secret(Resource):
    """Credentials of a provider or host."""

    KIND: ClassVar[Kind] = SECRET
    type: str = "Opaque"
    data: dict[str, str] = Field(default_factory=dict, repr=False)
    string_data: dict[str, str] = Field(default_factory=dict, repr=False)
    immutable: bool | None = None

    def __repr_args__(self) -> Any:
        # unknown fields are kept too, and somebody may have put a password into one
        yield from (("namespace", self.namespace), ("name", self.name), ("keys", self.keys))

    @property
    def keys(self) -> list[str]:
        return sorted({*self.data, *self.string_data})

    def raw(self, key: str, default: bytes = b"") -> bytes:
        """The value; the default if there is none. Raises Invalid for what is not base64."""
        if key in self.string_data:
            return self.string_data[key].encode()
        if key not in self.data:
            return default
        try:
            return base64.b64decode(self.data[key], validate=True)
        except (binascii.Error, ValueError):
            raise Invalid(
                "is not base64", field=f"data[{key}]", remedy="Encode it, or write it as it is below stringData."
            ) from None

    def text(self, key: str, default: str = "") -> str:
        """The value as text, without the line end that `echo | base64` leaves. Raises Invalid for what is not UTF-8."""
        try:
            return self.raw(key, default.encode()).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Invalid("is not UTF-8 text", field=f"data[{key}]", remedy="Encode the text as UTF-8.") from None

    @property
    def ca(self) -> str:
        """PEM bundle of the CA to trust; "" = the system's."""
        return self.text("ca.crt") or self.text("cacert")

    @property
    def insecure(self) -> bool:
        """Whether the user asked for TLS without verification."""
        return self.text("insecureSkipVerify").lower() == "true"

    def folded(self) -> "Secret":
        """A copy with stringData folded into data, as an API server stores it."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in self.string_data.items()}
        folded = self.model_copy(update={"data": {**self.data, **encoded}, "string_data": {}})
        folded.model_fields_set.discard("string_data")
        return folded
