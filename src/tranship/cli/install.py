"""`tranship manifests`: everything that a cluster needs to run the controllers. Asks no server.

The files are those of `kubectl apply -k deploy/overlays/PLATFORM`: they are part of the package, so an image or an
installed wheel can print them too. Of kustomize only the list of resources is understood here; a test compares the rest.
"""

import importlib.resources
import re
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any

import click

Object = dict[str, Any]
NAMESPACE = "tranship"  # that the files name
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_IMAGE = r"[A-Za-z0-9]([-A-Za-z0-9._/:@]*[A-Za-z0-9])?"


def _fits(pattern: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def check(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value!r} does not fit {pattern}", param=parameter)
        return value

    return check


@click.command()
@click.option(
    "--platform",
    type=click.Choice(["kubernetes", "openshift"]),
    default="kubernetes",
    show_default=True,
    help="Of the cluster.",
)
@click.option("--namespace", default=NAMESPACE, show_default=True, callback=_fits(_LABEL), help="For the controllers.")
@click.option(
    "--image", callback=_fits(_IMAGE), help="Of tranship, where the cluster pulls it from; the movers run from it too."
)
@click.option("--replicas", type=click.IntRange(min=1), help="Of the controllers; one of them acts  [default: 2].")
@click.option(
    "--precopy-interval", type=click.IntRange(min=1), metavar="MINUTES", help="PRECOPY_INTERVAL  [default: 60]."
)
def manifests(
    platform: str, namespace: str, image: str | None, replicas: int | None, precopy_interval: int | None
) -> None:
    """Print what installs the controllers in a cluster, as YAML.

    \b
    tranship manifests --image registry.example.com/tranship:0.1.0 | kubectl apply --server-side -f -
    """
    import yaml

    objects = list(read(PurePosixPath("overlays", platform)))
    deployment = next(one for one in objects if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one for one in container["env"]}
    if image:
        container["image"] = environment["TRANSHIP_IMAGE"]["value"] = image
    if precopy_interval is not None:
        environment["PRECOPY_INTERVAL"]["value"] = str(precopy_interval)
    if replicas is not None:
        deployment["spec"]["replicas"] = replicas
    for one in objects:
        move(one, namespace)
    click.echo(yaml.safe_dump_all(objects, sort_keys=False), nl=False)


def read(folder: PurePosixPath) -> Iterator[Object]:
    """All objects of a kustomization below the package's folder `deploy`, in their order."""
    import yaml

    for name in yaml.safe_load(_file(folder / "kustomization.yaml").read_text())["resources"]:
        path = _resolved(folder / name)
        if path.suffix == ".yaml":
            yield from yaml.safe_load_all(_file(path).read_text())
        else:
            yield from read(path)


def move(obj: Object, namespace: str) -> None:
    """What stands in our namespace, or names it, into another one."""
    meta = obj["metadata"]
    if obj["kind"] == "Namespace":
        meta["name"] = namespace
    if "namespace" in meta:
        meta["namespace"] = namespace
    for subject in obj.get("subjects", ()):
        subject["namespace"] = namespace


def _file(path: PurePosixPath) -> Traversable:
    return importlib.resources.files("tranship").joinpath("deploy", *path.parts)


def _resolved(path: PurePosixPath) -> PurePosixPath:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return PurePosixPath(*parts)
