"""Login, expiry, termination, TLS and the strictness of the transport."""

import hashlib
import http.client
import ssl
import threading
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tranship.lab.vsphere import VCenter


def post(center: VCenter, parts: list[bytes], cookie: str = "") -> tuple[int, str]:
    """A call the way the Go client sends it: chunked, without a length."""
    connection = http.client.HTTPSConnection(
        "localhost", center.port, context=ssl.create_default_context(cadata=center.ca_pem), timeout=10
    )
    headers = {"SOAPAction": '"urn:vim25/8.0.3.0"', "Content-Type": "text/xml"} | ({"Cookie": cookie} if cookie else {})
    connection.request("POST", "/sdk", iter(parts), headers, encode_chunked=True)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def envelope(body: str) -> list[bytes]:
    whole = f'<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>{body}</Body></Envelope>'.encode()
    return [whole[:60], whole[60:]]


def test_login_negotiates_and_is_named_in_the_session_list(center: VCenter, client: Any) -> None:
    assert client.content.about.apiType == "VirtualCenter"
    assert client.service._stub.version == "vim.version.v8_0_3_0"
    session = client.content.sessionManager.currentSession
    assert session.userName == center.user
    assert [s.key for s in client.content.sessionManager.sessionList] == [session.key]
    assert session.key not in client.cookie


def test_wrong_password(connect: Any) -> None:
    with pytest.raises(vim.fault.InvalidLogin):
        connect(pwd="wrong")


def test_certificate_is_verified_and_fingerprints_are_its_own(center: VCenter) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(
            "localhost", center.port, context=ssl.create_default_context(), timeout=10
        ).connect()
    der = ssl.PEM_cert_to_DER_cert(center.server_pem)
    assert ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("localhost", center.port), timeout=10)) == der
    assert center.thumbprint == hashlib.sha1(der).digest().hex(":").upper()
    assert center.fingerprint == hashlib.sha256(der).digest().hex(":").upper()


def test_without_a_session_nothing_is_told(center: VCenter) -> None:
    ask = '<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></CurrentTime>'
    status, text = post(center, envelope(ask))
    assert status == 500 and 'xsi:type="NotAuthenticated"' in text


def test_logout_ends_it(connect: Any) -> None:
    client = connect()
    client.content.sessionManager.Logout()
    with pytest.raises(vim.fault.NotAuthenticated):
        client.service.CurrentTime()


def test_idle_session_expires_but_not_during_a_call(center: VCenter, connect: Any) -> None:
    client = connect()
    spec = client.view_spec(vim.VirtualMachine, ["name"])
    client.collector.CreateFilter(spec, True)
    center.session_timeout = 0.0
    done = threading.Event()

    def wait() -> None:
        client.collector.WaitForUpdatesEx("", None)
        done.set()

    thread = threading.Thread(target=wait, daemon=True)
    with pytest.raises(vim.fault.NotAuthenticated):
        client.service.CurrentTime()
    center.session_timeout = 1800
    client = connect()
    client.collector.CreateFilter(client.view_spec(vim.VirtualMachine, ["name"]), True)
    thread.start()
    until = time.monotonic() + 10
    while not any(session.calls for session in center.sessions.live.values()) and time.monotonic() < until:
        done.wait(0.01)
    center.session_timeout = 0.0
    center.sessions.find("")
    assert center.sessions.live
    center.session_timeout = 1800
    center.add_vm("late")
    assert done.wait(10)


def test_terminate_session_cuts_a_wait_short(center: VCenter, client: Any, connect: Any) -> None:
    other = connect()
    other.collector.CreateFilter(other.view_spec(vim.VirtualMachine, ["name"]), True)
    failed: list[Exception] = []

    def wait() -> None:
        try:
            other.collector.WaitForUpdatesEx("", None)
        except vim.fault.NotAuthenticated as error:
            failed.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    mine = client.content.sessionManager.currentSession.key
    theirs = [s.key for s in client.content.sessionManager.sessionList if s.key != mine]
    thread.start()
    client.content.sessionManager.TerminateSession(theirs)
    thread.join(10)
    assert failed and not thread.is_alive()
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.content.sessionManager.TerminateSession([mine])


def test_a_clone_ticket_is_good_once(center: VCenter, client: Any, connect: Any) -> None:
    ticket = client.content.sessionManager.AcquireCloneTicket()
    other = connect()
    with pytest.raises(vim.fault.InvalidState):
        other.content.sessionManager.CloneSession(client.content.sessionManager.AcquireCloneTicket())
    other.content.sessionManager.Logout()
    clone = other.content.sessionManager.CloneSession(ticket)
    assert clone.userName == center.user and "pyvmomi" in clone.userAgent
    assert clone.key != client.content.sessionManager.currentSession.key
    client.content.sessionManager.Logout()
    other.service.CurrentTime()
    other.content.sessionManager.Logout()
    with pytest.raises(vim.fault.InvalidLogin):
        other.content.sessionManager.CloneSession(ticket)


def test_a_clone_ticket_ends_with_its_session(connect: Any) -> None:
    client, other = connect(), connect()
    ticket = client.content.sessionManager.AcquireCloneTicket()
    client.content.sessionManager.Logout()
    other.content.sessionManager.Logout()
    with pytest.raises(vim.fault.InvalidLogin):
        other.content.sessionManager.CloneSession(ticket)


def test_foreign_methods_and_garbage(center: VCenter, client: Any) -> None:
    with pytest.raises(vmodl.fault.NotSupported):
        client.content.rootFolder.CreateFolder("x")
    for body in (["<nonsense"], envelope("<NoSuchMethod xmlns='urn:vim25'/>"), envelope("")):
        parts = [part.encode() if isinstance(part, str) else part for part in body]
        status, text = post(center, parts, client.cookie)
        assert status == 500 and "InvalidRequest" in text
    ask = '<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance"></_this></CurrentTime>'
    assert "ManagedObjectNotFound" in post(center, envelope(ask), client.cookie)[1]


def test_privileges(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [1 << 20], running=True)
    manager = client.content.authorizationManager
    wanted = ["VirtualMachine.State.CreateSnapshot", "Datastore.FileManagement", "VirtualMachine.Interact.PowerOff"]
    key = client.content.sessionManager.currentSession.key
    assert all(p.isGranted for p in manager.HasPrivilegeOnEntities([client.vm(vm)], key, wanted)[0].privAvailability)
    center.missing_privileges |= {"VirtualMachine.Interact.PowerOff"}
    assert manager.HasPrivilegeOnEntity(client.vm(vm), key, wanted) == [True, True, False]
    (result,) = manager.FetchUserPrivilegeOnEntities([client.vm(vm)], center.user)
    assert wanted[0] in result.privileges and wanted[2] not in result.privileges
    with pytest.raises(vim.fault.NoPermission) as refused:
        client.vm(vm).PowerOffVM_Task()
    assert refused.value.privilegeId == wanted[2]
    assert vm.on
