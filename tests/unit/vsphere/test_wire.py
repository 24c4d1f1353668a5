"""The streaming reader: what is read does not depend on how the bytes arrive, and nothing but SOAP is read."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tranship.errors import Refused
from tranship.providers.vsphere.wire import Node, Reader, Ref, flag, many, number, properties, read, text, versions

ANSWER = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
 xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>
<WaitForUpdatesExResponse xmlns="urn:vim25"><returnval><version>7</version><filterSet><filter type="PropertyFilter">f</filter>
<objectSet><kind>enter</kind><obj type="VirtualMachine">vm-42</obj>
<changeSet><name>name</name><op>assign</op><val xsi:type="xsd:string">caf\xc3\xa9 &lt;1&gt; &amp; co</val></changeSet>
<changeSet><name>network</name><op>assign</op><val xsi:type="ArrayOfManagedObjectReference">
<ManagedObjectReference type="Network" xsi:type="ManagedObjectReference">network-7</ManagedObjectReference></val></changeSet>
<changeSet><name>config.hardware.device</name><op>assign</op><val xsi:type="ArrayOfVirtualDevice">
<VirtualDevice xsi:type="VirtualDisk"><key>2000</key><capacityInKB>1024</capacityInKB>
<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>[ds] a/a.vmdk</fileName><split>false</split></backing>
</VirtualDevice><VirtualDevice xsi:type="VirtualCdrom"><key>3000</key></VirtualDevice></val></changeSet>
<changeSet><name>guest.net</name><op>assign</op><val xsi:type="ArrayOfGuestNicInfo"></val></changeSet>
</objectSet><objectSet><kind>leave</kind><obj type="VirtualMachine">vm-43</obj></objectSet></filterSet>
<truncated>true</truncated></returnval></WaitForUpdatesExResponse></soapenv:Body></soapenv:Envelope>"""


def test_an_update_is_read() -> None:
    taken: list[Node] = []
    rest = read(iter([ANSWER]), taken.append)
    assert text(rest, "returnval", "version") == "7"
    assert flag(rest, "returnval", "truncated")
    assert [text(item, "kind") for item in taken] == ["enter", "leave"]
    ref, said = properties(taken[0])
    assert ref == Ref("VirtualMachine", "vm-42")
    assert said["name"] == "café <1> & co"
    assert many(said["network"]) == [Ref("Network", "network-7")]
    disk, cdrom = many(said["config.hardware.device"])
    assert (disk.kind, cdrom.kind) == ("VirtualDisk", "VirtualCdrom")
    assert number(disk, "capacityInKB") == 1024
    assert disk["backing"].kind == "VirtualDiskFlatVer2BackingInfo"
    assert text(disk, "backing", "fileName") == "[ds] a/a.vmdk"
    assert many(said["guest.net"]) == []


@given(st.lists(st.integers(1, len(ANSWER) - 1), max_size=20))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    borders = [0, *sorted(set(cuts)), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(borders)]
    whole: list[Node] = []
    taken: list[Node] = []
    assert read(iter(pieces), taken.append) == read(iter([ANSWER]), whole.append)
    assert taken == whole


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"<!DOCTYPE a [<!ENTITY b 'bbb'>]><a>&b;</a>", id="entities"),
        pytest.param(ANSWER[:-40], id="cut off"),
        pytest.param(b"<html><body><p>Bad gateway</body></html>", id="not XML"),
        pytest.param(b"<a>" * 300 + b"</a>" * 300, id="too deep"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_refused(answer: bytes) -> None:
    with pytest.raises(Refused):
        read(iter([answer]), lambda _: None)


def test_objects_are_not_kept() -> None:
    taken: list[Node] = []
    reader = Reader(taken.append)
    reader.feed(ANSWER)
    assert len(taken) == 2
    assert "objectSet" not in str(reader.close())


def test_versions() -> None:
    offered = versions(
        b"<namespaces version='1.0'><namespace><name>urn:vim25</name><version>8.0.3.0</version><priorVersions>"
        b"<version>8.0.2.0</version><version>6.5</version></priorVersions></namespace>"
        b"<namespace><name>urn:sms</name><version>9</version></namespace></namespaces>"
    )
    assert offered == {"8.0.3.0", "8.0.2.0", "6.5"}
