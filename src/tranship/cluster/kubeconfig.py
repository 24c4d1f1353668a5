"""The way to a cluster as kubectl finds it: a kubeconfig's context, or the service account of the pod that we run in.

Called by the application. Understood: certificate authorities, client certificates, tokens (also in a file, read again with
every call, because they are renewed there) and exec plug-ins, all as in kubectl's own documentation; what is not understood
is refused by its name. No secret is ever put into a message.
"""

import base64
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tranship.errors import AuthFailed, Invalid, Side, ToolFailed, ToolMissing

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLUGIN_SECONDS = 60
EARLY = timedelta(seconds=30)  # a credential is renewed so long before it ends
REFUSED_CLUSTER = ("proxy-url",)
REFUSED_USER = ("username", "password", "auth-provider", "as", "as-uid", "as-groups", "as-user-extra")


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that a client needs. namespace: the context's own."""

    url: str
    trust: ssl.SSLContext = field(repr=False)
    auth: httpx2.Auth = field(repr=False)
    namespace: str = "default"

    def client(self, *, answer: float = 60.0, connect: float = 10.0) -> httpx2.AsyncClient:
        """answer, connect: seconds."""
        return httpx2.AsyncClient(
            base_url=self.url,
            verify=self.trust,
            auth=self.auth,
            timeout=httpx2.Timeout(answer, connect=connect),
            limits=httpx2.Limits(max_connections=200, max_keepalive_connections=20),
            trust_env=False,
        )


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """context "" = the current one. Raises Invalid naming the field."""
    try:
        told = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise _wrong(path, "", f"it cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise _wrong(path, "", "it is no kubeconfig")
    name = context or told.get("current-context") or ""
    chosen = _named(path, told, "contexts", name)["context"]
    cluster = _named(path, told, "clusters", chosen.get("cluster", ""))["cluster"]
    user = _named(path, told, "users", chosen["user"])["user"] or {} if chosen.get("user") else {}
    for what, known, part in (("clusters", REFUSED_CLUSTER, cluster), ("users", REFUSED_USER, user)):
        for key in known:
            if part.get(key):
                raise _wrong(path, f"{what}: {key}", "tranship does not know how to use it")
    trust = _trust(path, cluster)
    return Access(
        cluster["server"].rstrip("/"), trust, _auth(path, user, trust, cluster), chosen.get("namespace") or "default"
    )


def in_cluster(account: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Access:
    """As the pod's service account. Raises Invalid outside of a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    try:
        trust = ssl.create_default_context(cadata=(account / "ca.crt").read_text())
        namespace = (account / "namespace").read_text().strip()
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"this is no pod with a service account: {error}", field="--in-cluster", side=Side.OURS
        ) from error
    if not host:
        raise Invalid("KUBERNETES_SERVICE_HOST is not set", field="--in-cluster", side=Side.OURS)
    token = account / "token"
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    return Access(url, trust, Bearer(lambda: token.read_text().strip()), namespace)


class Bearer(httpx2.Auth):
    """The token is asked for with every call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        if token := self._token():
            request.headers["Authorization"] = f"Bearer {token}"
        yield request


class Plugin(httpx2.Auth):
    """A token from an exec plug-in, asked for when there is none, when it ends, and when the cluster refuses it. The call waits
    for the plug-in: once an hour or so."""

    def __init__(self, run: Callable[[], Mapping[str, Any]], first: Mapping[str, Any]) -> None:
        self._run, self._status = run, first

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        if self._ended():
            self._status = self._run()
        answer = yield self._signed(request)
        if answer.status_code == 401:
            self._status = self._run()
            yield self._signed(request)

    def _ended(self) -> bool:
        until = self._status.get("expirationTimestamp")
        return until is not None and datetime.fromisoformat(until) - EARLY < datetime.now(UTC)

    def _signed(self, request: httpx2.Request) -> httpx2.Request:
        if token := self._status.get("token"):
            request.headers["Authorization"] = f"Bearer {token}"
        return request


# --- inside ----------------------------------------------------------------------------------------------------------------


def _trust(path: Path, cluster: Mapping[str, Any]) -> ssl.SSLContext:
    server = cluster.get("server", "")
    if not server.startswith("https://"):
        raise _wrong(path, "clusters: server", f"{server!r} is no https address")
    try:
        ca = _bytes(path, cluster, "certificate-authority")
        context = ssl.create_default_context(cadata=ca.decode() if ca else None)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise _wrong(path, "clusters: certificate-authority", str(error)) from error
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _auth(path: Path, user: Mapping[str, Any], trust: ssl.SSLContext, cluster: Mapping[str, Any]) -> httpx2.Auth:
    certificate, key = (_bytes(path, user, name) for name in ("client-certificate", "client-key"))
    if certificate and key:
        _present(trust, certificate, key)
    if "exec" in user:
        spec = user["exec"]

        def run() -> Mapping[str, Any]:
            return _run_plugin(path, spec, cluster)

        status = run()
        if status.get("clientCertificateData"):
            _present(trust, status["clientCertificateData"].encode(), status["clientKeyData"].encode())
        return Plugin(run, status)
    if file := user.get("tokenFile"):
        return Bearer(lambda: (path.parent / file).read_text().strip())
    return Bearer(lambda: str(user.get("token", "")))


def _present(trust: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL takes a client's certificate from files only: ours live as long as this call."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        try:
            trust.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise Invalid(
                "certificate and key do not fit", field="users: client-certificate", side=Side.OURS
            ) from error


def _run_plugin(path: Path, spec: Mapping[str, Any], cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    version = spec.get("apiVersion", "")
    if version not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"):
        raise _wrong(path, "users: exec: apiVersion", f"{version!r} is not known")
    info: dict[str, Any] = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    if spec.get("provideClusterInfo"):
        info["spec"]["cluster"] = {"server": cluster["server"]}
    environment = {**os.environ, **{one["name"]: one["value"] for one in spec.get("env") or ()}}
    command = str(spec.get("command", ""))
    if "/" in command:
        command = str(path.parent / command)
    argv = [command, *(spec.get("args") or ())]
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=PLUGIN_SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise ToolMissing(str(spec.get("installHint", ""))[:500], tool=command) from error
    except subprocess.TimeoutExpired as error:
        raise AuthFailed(f"{command} did not answer within {PLUGIN_SECONDS} s", address="", user="") from error
    if done.returncode:
        raise ToolFailed(argv=command, code=done.returncode, output=done.stderr[-500:])
    try:
        status: Mapping[str, Any] = json.loads(done.stdout)["status"]
    except (ValueError, KeyError) as error:
        raise _wrong(path, "users: exec", f"{command} printed no ExecCredential") from error
    return status


def _bytes(path: Path, part: Mapping[str, Any], name: str) -> bytes:
    """What `name-data` holds, or the file that `name` names, relative to the kubeconfig."""
    if data := part.get(f"{name}-data"):
        return base64.b64decode(data)
    try:
        return (path.parent / part[name]).read_bytes() if part.get(name) else b""
    except OSError as error:
        raise _wrong(path, name, str(error)) from error


def _named(path: Path, told: Mapping[str, Any], what: str, name: str) -> Mapping[str, Any]:
    for one in told.get(what) or ():
        if one.get("name") == name:
            found: Mapping[str, Any] = one
            return found
    known = ", ".join(str(one.get("name")) for one in told.get(what) or ()) or "none"
    raise _wrong(path, what, f"it has no {name!r}; there are: {known}")


def _wrong(path: Path, where: str, why: str) -> Invalid:
    return Invalid(
        why, field=f"{path}{f': {where}' if where else ''}", side=Side.OURS, remedy="Correct the kubeconfig."
    )
