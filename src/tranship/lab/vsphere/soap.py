"""SOAP as vCenter speaks it: requests to Python values, Python values and faults to XML.

server.py calls it for every POST to /sdk, collector.py for every property that it sends. The types, and so the field
names, their order and their versions, are pyVmomi's; what pyVmomi's own client forgives and others do not is made right
here: a reference inside an Any is a ManagedObjectReference, and a value inside an Any carries the type that its property
declares (an enum is not a string, a long is not an int, a list is an ArrayOf).
"""

import re
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

from tranship.lab.vsphere.vmomi import F_OPTIONAL, Fault, SoapAdapter, VmomiSupport

NAMESPACE = "urn:vim25"
NEWEST = "vim.version.v8_0_3_0"
OLDER = ("8.0.2.0", "8.0.1.0", "8.0.0.1", "7.0.3.0", "7.0", "6.7", "6.5", "6.0", "5.5")

VERSIONS = (
    '<?xml version="1.0" encoding="UTF-8" ?>\n<namespaces version="1.0"><namespace><name>urn:vim25</name>'
    f"<version>8.0.3.0</version><priorVersions>{''.join(f'<version>{v}</version>' for v in OLDER)}</priorVersions>"
    "</namespace></namespaces>\n"
)

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/"'
    ' xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
    "<soapenv:Body>\n"
)
_TAIL = "\n</soapenv:Body>\n</soapenv:Envelope>\n"
_PREFIXES = {**SoapAdapter.SOAP_NSMAP, NAMESPACE: ""}
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/ "


@dataclass
class Request:
    """One call off the wire. `info` is pyVmomi's description of the method, None for `Fetch`."""

    method: str = ""
    this: str = ""
    info: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """XML that is ready to be sent, in the place of a value."""

    xml: str


def version_of(action: str) -> str:
    """The API version that a SOAPAction header asks for, never newer than ours."""
    match = re.search(r"urn:(vim25/[\w.]+)", action)
    version = VmomiSupport.versionMap.get(match[1], NEWEST) if match else NEWEST
    return version if VmomiSupport.IsChildVersion(NEWEST, version) else NEWEST


class _Values(SoapAdapter.SoapDeserializer):  # type: ignore[misc]
    """pyVmomi's reader of values, with what real clients send: a type that is not named means any managed object."""

    data: str

    def EndElementHandler(self, tag: str) -> None:
        if self.stack and self.stack[-1] is type and not self.data:
            self.data = "ManagedEntity"
        super().EndElementHandler(tag)


class _Parser(SoapAdapter.ExpatDeserializerNSHandlers):  # type: ignore[misc]
    """Walks Envelope, Body and the method element, and lets pyVmomi read each parameter."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.request = Request()
        self.version = version
        self.data = ""
        self._depth = 0
        self._body = False
        self._pending: tuple[Any, Any] | None = None  # parameter being read by pyVmomi, and its reader

    def parse(self, body: bytes) -> Request:
        self.parser = ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        SoapAdapter.SetHandlers(self.parser, SoapAdapter.GetHandlers(self))
        self.parser.Parse(body, True)
        if not self.request.method:
            raise ValueError("no method in the body")
        return self.request

    def StartElementHandler(self, tag: str, attributes: dict[str, str]) -> None:
        self._collect()
        self.data = ""
        namespace, _, name = tag.rpartition(" ")
        if not self._body:
            self._body = tag == _ENVELOPE + "Body"
        elif not self.request.method:
            self._open(namespace, name)
        elif self._depth == 0 and name == "_this":
            self._depth = 1
        elif self._depth == 0:
            self._parameter(tag, name, attributes)

    def EndElementHandler(self, tag: str) -> None:
        self._collect()
        if self._depth:
            self.request.this, self._depth = self.data.strip(), 0

    def CharacterDataHandler(self, data: str) -> None:
        self.data += data

    def _open(self, namespace: str, name: str) -> None:
        self.request.method = name
        if name != "Fetch":
            self.request.info = VmomiSupport.GetWsdlMethod(namespace, name).info

    def _parameter(self, tag: str, name: str, attributes: dict[str, str]) -> None:
        parameter = next((p for p in self._parameters() if p.name == name), None)
        if parameter is None:
            raise ValueError(f"{self.request.method} has no parameter {name}")
        many = issubclass(parameter.type, list)
        reader = _Values(version=self.version)
        reader.Deserialize(self.parser, parameter.type.Item if many else parameter.type, False, self.nsMap)
        self._pending = parameter, reader
        reader.StartElementHandler(tag, attributes)

    def _parameters(self) -> Any:
        if self.request.info is None:
            return (VmomiSupport.Object(name="prop", type=str, version=self.version, flags=0),)
        return self.request.info.params

    def _collect(self) -> None:
        if self._pending is None:
            return
        parameter, reader = self._pending
        self._pending = None
        value = reader.GetResult()
        if issubclass(parameter.type, list):
            values = self.request.arguments.setdefault(parameter.name, [])
            values.extend(value if isinstance(value, list) else [value])
        else:
            self.request.arguments[parameter.name] = value


def parse(body: bytes, version: str) -> Request:
    """Raises ValueError for anything that is no call of a known method with known parameters."""
    try:
        return _Parser(version).parse(body)
    except (ExpatError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot be understood: {error}") from error


class _Serializer(SoapAdapter.SoapSerializer):  # type: ignore[misc]
    def __init__(self, writer: StringIO, version: str) -> None:
        super().__init__(writer, version, _PREFIXES)
        self.outermostAttrs = ""

    def _QName(self, typ: Any, defNS: str) -> tuple[str, str]:
        attribute, name = super()._QName(typ, defNS)
        if typ is VmomiSupport.ManagedObject:
            return attribute, "ManagedObjectReference"
        return attribute, name


def element(name: str, value: Any, declared: Any, version: str, optional: bool = True) -> str:
    """`value` as XML element `name`, of the type `declared` (`object` for an Any). An unset value gives no XML."""
    if value is None:
        return ""
    if isinstance(value, Raw):
        return value.xml
    flags = F_OPTIONAL if optional else 0
    info = VmomiSupport.Object(name=name, type=declared, version="vmodl.version.version0", flags=flags)
    writer = StringIO()
    serializer = _Serializer(writer, version)
    serializer._Serialize(value, info, NAMESPACE)
    return writer.getvalue()


def coerce(value: Any, declared: Any) -> Any:
    """`value` in the very type that its property declares, so that it can go into an Any."""
    if value is None or declared is object:
        return value
    if issubclass(declared, list):
        return value if type(value) is declared else declared([coerce(item, declared.Item) for item in value])
    if isinstance(value, (VmomiSupport.DataObject, VmomiSupport.ManagedObject)):
        return value
    if issubclass(declared, (VmomiSupport.Enum, str, int, float)) and type(value) is not declared:
        return bool(value) if declared is bool else declared(value)
    return value


def response(method: str, value: Any, declared: Any, version: str) -> bytes:
    inner = "" if declared is type(None) else element("returnval", value, declared, version)
    return f'{_HEAD}<{method}Response xmlns="{NAMESPACE}">{inner}</{method}Response>{_TAIL}'.encode()


def fault(error: Any, version: str) -> bytes:
    """The SOAP fault for a vim or vmodl fault; its `msg` becomes the faultstring."""
    message, error.msg = error.msg or type(error).__name__.rpartition(".")[2], None
    name = VmomiSupport.GetWsdlName(VmomiSupport.GetCompatibleType(type(error), version))
    info = VmomiSupport.Object(name=f"{name}Fault", type=object, version="vmodl.version.version0", flags=0)
    writer = StringIO()
    _Serializer(writer, version)._SerializeDataObject(error, info, f' xmlns="{NAMESPACE}"', NAMESPACE)
    error.msg = message
    return (
        f"{_HEAD}<soapenv:Fault><faultcode>ServerFaultCode</faultcode>"
        f"<faultstring>{SoapAdapter.XmlEscape(message)}</faultstring>"
        f"<detail>{writer.getvalue()}</detail></soapenv:Fault>{_TAIL}"
    ).encode()


def fault_named(name: str, message: str = "", /, **facts: Any) -> Fault:
    """A fault by its short name ("TaskInProgress"), from vim.fault or vmodl.fault; required fields are filled."""
    for package in ("vim.fault", "vmodl.fault", "vmodl.query", "vmodl"):
        try:
            kind = VmomiSupport.GetVmodlType(f"{package}.{name}")
        except KeyError:
            continue
        result = fill(kind, **facts)
        result.msg = message or f"{name}: the operation cannot be done."
        return result  # type: ignore[no-any-return]
    raise KeyError(name)


def fill(kind: Any, **values: Any) -> Any:
    """A data object of `kind` with `values`. What it requires besides gets the simplest value there is (first of an
    enum, an empty object, a dangling reference, the epoch), because the serializer refuses an object with a hole."""
    result = kind(**values)
    for info in kind._GetPropertyList():
        if info.flags & F_OPTIONAL or getattr(result, info.name) is not None:
            continue
        if issubclass(info.type, VmomiSupport.Enum):
            setattr(result, info.name, info.type(info.type.values[0]))
        elif issubclass(info.type, VmomiSupport.datetime):
            setattr(result, info.name, VmomiSupport.datetime.fromtimestamp(0, VmomiSupport.Iso8601.UTC))
        elif issubclass(info.type, VmomiSupport.DataObject):
            setattr(result, info.name, fill(info.type))
        elif issubclass(info.type, VmomiSupport.ManagedObject):
            setattr(result, info.name, info.type("unknown"))
    return result
