"""The Kubernetes API for the stand-ins of this folder: a small client, and mirrors of what a kind's objects are.

Everything here runs in one event loop (`KubeVirt`). A `Mirror` lists and watches one kind; a `Controller` looks at its
mirrors whenever one of them, or a process of its own, has news. What is decided may rest on a mirror that is a moment
late: creations have fixed names, changes carry the resourceVersion that was read and deletions the uid, so the API server
refuses what is out of date, and the next look does better.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import yaml

from tranship.errors import AlreadyExists, Conflict, Expired, Invalid, NotFound, Refused, TranshipError, Unreachable

TIMEOUT = 20.0
WATCH_SECONDS = 240
AGAIN_SECONDS = 0.5  # after an error; the API server may be just starting
COMPONENT = "tranship-lab"
_SUFFIXES = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")

Object = dict[str, Any]
Key = tuple[str, str]
_log = logging.getLogger(__name__)


class Kind(NamedTuple):
    path: str  # of its group and version
    plural: str
    namespaced: bool = True


EVENTS = Kind("/api/v1", "events")


class Api:
    """The cluster of a kubeconfig: its current context, by token or client certificate. Raises Invalid."""

    def __init__(self, kubeconfig: Path) -> None:
        url, token, trust = _access(kubeconfig)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.AsyncClient(base_url=url, headers=headers, verify=trust, timeout=TIMEOUT)

    async def close(self) -> None:
        await self._http.aclose()

    async def list(self, kind: Kind) -> Object:
        return await self._call("GET", _path(kind))

    async def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        with contextlib.suppress(NotFound):
            return await self._call("GET", _path(kind, namespace, name))
        return None

    async def create(self, kind: Kind, obj: Object) -> Object:
        """Raises AlreadyExists; Refused also for a field that the schema does not know."""
        return await self._call("POST", _path(kind, key(obj)[0]), obj, fieldValidation="Strict")

    async def ensure(self, kind: Kind, obj: Object) -> None:
        """Create it unless one of its name is there."""
        with contextlib.suppress(AlreadyExists):
            await self.create(kind, obj)

    async def patch(self, kind: Kind, obj: Object, change: Object, *, status: bool = False) -> Object:
        """A merge patch of the object as it was read. Raises Conflict when it is another one by now."""
        path = _path(kind, *key(obj)) + ("/status" if status else "")
        metadata = {**change.get("metadata", {}), "uid": obj["metadata"]["uid"]}
        metadata["resourceVersion"] = obj["metadata"]["resourceVersion"]
        return await self._call("PATCH", path, {**change, "metadata": metadata}, fieldValidation="Strict")

    async def delete(self, kind: Kind, obj: Object, **options: Any) -> None:
        """Precisely that one; that it is gone already is no error. options: such as gracePeriodSeconds."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": obj["metadata"]["uid"]}}
        with contextlib.suppress(NotFound, Conflict):
            await self._call("DELETE", _path(kind, *key(obj)), {**body, **options})

    async def watch(self, kind: Kind, version: str) -> AsyncIterator[tuple[str, Object]]:
        """Type and object of each event, until the server ends it. Raises Expired."""
        query: dict[str, Any] = {"watch": "true", "resourceVersion": version, "timeoutSeconds": WATCH_SECONDS}
        limit = httpx2.Timeout(TIMEOUT, read=WATCH_SECONDS + TIMEOUT)
        try:
            async with self._http.stream("GET", _path(kind), params=query, timeout=limit) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _refusal(answer, f"watching {kind.plural}")
                async for line in answer.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Expired(f": {event['object'].get('message')}", since=version)
                    yield event["type"], event["object"]
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error

    async def tell(self, kind: str, obj: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """An Event on the object. One of the same words is kept, and not told again."""
        meta, now = obj["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = meta.get("namespace") or "default"
        about = {"apiVersion": obj["apiVersion"], "kind": kind, "name": meta["name"], "uid": meta["uid"]}
        words = binascii.crc32(f"{meta['uid']} {reason} {message}".encode())
        event = {
            "metadata": {"name": f"{meta['name'][:200]}.{words:08x}", "namespace": namespace},
            "involvedObject": about | ({"namespace": namespace} if meta.get("namespace") else {}),
            "reason": reason,
            "message": message[:1000],
            "type": "Warning" if warning else "Normal",
            "source": {"component": COMPONENT},
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        await self.ensure(EVENTS, event)

    async def _call(self, method: str, path: str, body: Object | None = None, **query: str) -> Object:
        patch = "merge-patch+" if method == "PATCH" else ""
        headers = {"Content-Type": f"application/{patch}json"} if body is not None else {}
        content = json.dumps(body).encode() if body is not None else None
        try:
            answer = await self._http.request(method, path, params=query, content=content, headers=headers)
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_success:
            decoded: Object = answer.json()
            return decoded
        raise _refusal(answer, f"{method} {path}")

    def _unreachable(self, error: httpx2.HTTPError) -> Unreachable:
        return Unreachable(str(error) or type(error).__name__, address=str(self._http.base_url))


def _refusal(answer: httpx2.Response, doing: str) -> TranshipError:
    try:
        status = answer.json()
    except ValueError:
        status = {}
    said = f": {status.get('message', answer.text)}"[:500]
    match answer.status_code, status.get("reason"):
        case 404, _:
            return NotFound(said, what="object", name=doing)
        case 409, "AlreadyExists":
            return AlreadyExists(said, what="object", name=doing)
        case 409, _:
            return Conflict(said, what="object", name=doing)
        case 410, _:
            return Expired(said, since="then")
        case code, _ if code >= 500 or code == 429:
            return Unreachable(f"{doing}{said} (HTTP {code})", address=str(answer.url))
    return Refused(said.removeprefix(": "), what=doing, fault=status.get("reason") or f"HTTP {answer.status_code}")


def key(obj: Object) -> Key:
    """Namespace ("" = none) and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _path(kind: Kind, namespace: str = "", name: str = "") -> str:
    inside = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
    return f"{kind.path}{inside}/{kind.plural}" + (f"/{name}" if name else "")


class Mirror:
    """The objects of one kind, by namespace and name, as the cluster told last."""

    def __init__(self, api: Api, kind: Kind) -> None:
        self._api = api
        self.kind = kind
        self.objects: dict[Key, Object] = {}
        self.complete = False
        self.listeners: list[Callable[[], None]] = []

    def get(self, namespace: str, name: str) -> Object | None:
        return self.objects.get((namespace, name))

    def update(self, obj: Object) -> None:
        """What a change of ours made of it, which the watch will tell later, unless it has told of its end already."""
        if key(obj) in self.objects:
            self._put(obj)

    def _put(self, obj: Object) -> None:
        known = self.objects.get(key(obj))
        if known is None or _version(obj) >= _version(known):
            self.objects[key(obj)] = obj
            self._tell()

    async def run(self) -> None:
        """For ever. A kind that is not served yet is waited for."""
        while True:
            try:
                listed = await self._api.list(self.kind)
                self.objects = {key(one): {"apiVersion": listed["apiVersion"]} | one for one in listed["items"]}
                self.complete = True
                self._tell()
                async for change, obj in self._api.watch(self.kind, listed["metadata"]["resourceVersion"]):
                    if change == "DELETED":
                        self.objects.pop(key(obj), None)
                        self._tell()
                    else:
                        self._put(obj)
            except Expired:
                continue
            except TranshipError as error:
                _log.debug("watching %s: %s", self.kind.plural, error)
                await asyncio.sleep(AGAIN_SECONDS)

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


class Controller(ABC):
    """Looks at every object of its first mirror whenever one of its mirrors has news."""

    def __init__(self, *mirrors: Mirror) -> None:
        self._mirrors = mirrors
        self._news = asyncio.Event()
        self._due = float("inf")
        for mirror in mirrors:
            mirror.listeners.append(self._news.set)

    @abstractmethod
    async def look(self, obj: Object) -> None:
        """Do what is to be done about it now. What fails temporarily is looked at again."""

    def wake(self) -> None:
        self._news.set()

    def wake_in(self, seconds: float) -> None:
        self._due = min(self._due, time.monotonic() + seconds)

    async def run(self) -> None:
        while True:
            rest = max(0.0, self._due - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), None if rest == float("inf") else rest)
            self._news.clear()
            self._due = float("inf")
            if all(mirror.complete for mirror in self._mirrors):
                for obj in self.chosen():
                    await self._look(obj)

    def chosen(self) -> Iterable[Object]:
        return list(self._mirrors[0].objects.values())

    async def _look(self, obj: Object) -> None:
        try:
            await self.look(obj)
        except (Conflict, AlreadyExists, NotFound):  # the mirror was late; its news are under way
            self.wake_in(AGAIN_SECONDS)
        except TranshipError as error:
            _log.warning("%s %s: %s", type(self).__name__, "/".join(key(obj)), error)
            self.wake_in(AGAIN_SECONDS)


def quantity(text: str | int, field: str = "quantity") -> int:
    """Kubernetes' notation of bytes, "64Mi", "1G" or "1.5Gi", rounded up. Raises Invalid."""
    written = str(text)
    number = written.rstrip("".join(_SUFFIXES) + "mi")
    suffix = written[len(number) :]
    try:
        if suffix in _BINARY:
            value = Decimal(number) * 1024 ** (_BINARY.index(suffix) + 1)
        else:
            value = Decimal(number) * (Decimal(10) ** (-3 if suffix == "m" else _SUFFIXES[suffix]))
    except (InvalidOperation, KeyError) as error:
        raise Invalid(f"{written!r} is no quantity such as 64Mi or 1G", field=field) from error
    return int(value.to_integral_value(ROUND_CEILING))


def _access(kubeconfig: Path) -> tuple[str, str, ssl.SSLContext]:
    """URL, token and trust."""
    try:
        whole = yaml.safe_load(kubeconfig.read_text())
        context = _named(whole["contexts"], whole["current-context"])["context"]
        cluster = _named(whole["clusters"], context["cluster"])["cluster"]
        user = _named(whole["users"], context["user"])["user"]
        if data := cluster.get("certificate-authority-data"):
            trust = ssl.create_default_context(cadata=base64.b64decode(data).decode())
        else:
            trust = ssl.create_default_context(cafile=cluster.get("certificate-authority"))
        if "client-certificate" in user:
            trust.load_cert_chain(user["client-certificate"], user["client-key"])
        return cluster["server"], user.get("token", ""), trust
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration, ValueError) as error:
        raise Invalid(f"it cannot be used: {type(error).__name__}: {error}", field=str(kubeconfig)) from error


def _named(entries: list[Object], name: str) -> Object:
    return next(one for one in entries if one["name"] == name)
