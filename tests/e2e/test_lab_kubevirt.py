"""KubeVirt's stand-in on a genuine cluster: volumes by claims, profiles by classes, machines by what their objects say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tranship.lab.guest import configure, inspect, prepare, reader
from tranship.lab.kubevirt import StorageClass

from .conftest import MIB
from .in_cluster import TAG, Cluster, Object

NAMESPACE = "machines"


@pytest.fixture(scope="module")
def cluster(cluster: Cluster) -> Cluster:
    """In a namespace of its own."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    cluster.kubectl("apply", "-f", "-", given=space)  # a worker may come back to this module
    return replace(cluster, namespace=NAMESPACE)


def claim(name: str, storage: str, mode: str, size: str = "32Mi") -> Object:
    spec: Object = {"accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": storage}
    spec |= {"resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def pod(name: str, claim: str, block: bool, program: str) -> Object:
    """It runs a Python program with the claim's disk as `path`, as a mover would, under Pod Security "restricted"."""
    place = "/disk" if block else "/volume"
    path = place if block else f"{place}/disk.img"
    attached: Object = {"volumeDevices": [{"name": "disk", "devicePath": place}]}
    if not block:
        attached = {"volumeMounts": [{"name": "disk", "mountPath": place}]}
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container = {
        "name": "writer",
        "image": TAG,
        "imagePullPolicy": "Never",
        "securityContext": secure,
        **attached,
        "command": ["python3", "-c", f"path = {path!r}\n{program}"],
    }
    user = {"runAsUser": 107, "runAsGroup": 107, "fsGroup": 107, "seccompProfile": {"type": "RuntimeDefault"}}
    volumes = [{"name": "disk", "persistentVolumeClaim": {"claimName": claim}}]
    spec = {"restartPolicy": "Never", "securityContext": user, "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def run(cluster: Cluster, one: Object) -> tuple[str, str]:
    """Its phase in the end, and what it said."""
    name = one["metadata"]["name"]
    cluster.make(one)

    def ended() -> str:
        phase = cluster.read("pod", name)["status"]["phase"]
        return phase if phase in ("Succeeded", "Failed") else ""

    phase = cluster.until(f"end of {name}", ended, 90)
    said = cluster.kubectl("logs", name, "-n", NAMESPACE)
    cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, "--wait=true")
    return phase, said


WRITE = """
import os
with open(path, "r+b" if os.path.exists(path) else "w+b") as file:
    file.write(b"written by a pod")
"""


@pytest.mark.parametrize(
    ("storage", "mode", "early"),
    [
        ("block", "Block", False),
        ("filesystem", "Filesystem", False),
        ("ext4", "Filesystem", False),
        ("block-now", "Block", True),
        ("ext4-now", "Filesystem", True),
    ],
)
def test_a_claim_gets_a_volume_that_a_pod_can_write_and_that_goes_with_it(
    cluster: Cluster, storage: str, mode: str, early: bool
) -> None:
    name = f"volume-{storage}"

    def phase() -> str:
        return str(cluster.read("pvc", name)["status"]["phase"])

    cluster.make(claim(name, storage, mode))
    if early:
        cluster.until("bound without a pod", lambda: phase() == "Bound")
    else:
        waits = "waiting for first consumer"
        cluster.until(waits, lambda: waits in cluster.kubectl("describe", "pvc", name, "-n", NAMESPACE))
        assert phase() == "Pending"
    ended, said = run(cluster, pod(f"write-{storage}", name, mode == "Block", WRITE))
    assert ended == "Succeeded", said
    assert cluster.content(name, 16) == b"written by a pod"

    folder = cluster.place(name).parent if mode == "Block" else cluster.place(name).parents[1]
    volume = cluster.read("pvc", name)["spec"]["volumeName"]
    assert json.loads(cluster.kubectl("get", "pv", volume, "-o", "json"))["spec"]["capacity"]["storage"] == "32Mi"
    cluster.kubectl("delete", "pvc", name, "-n", NAMESPACE)
    cluster.until("volume gone", lambda: not cluster.kubectl("get", "pv", volume, "--ignore-not-found"))
    assert not folder.exists()


def test_a_volume_of_its_own_file_system_can_be_full(cluster: Cluster) -> None:
    cluster.make(claim("full", "ext4", "Filesystem", "16Mi"))
    fill = "open(path, 'wb').write(bytes(17 << 20))"
    ended, said = run(cluster, pod("fill", "full", False, fill))
    assert ended == "Failed"
    assert "No space left on device" in said
    cluster.kubectl("delete", "pvc", "full", "-n", NAMESPACE)


def test_what_cannot_be_provisioned_is_said_on_the_claim(cluster: Cluster) -> None:
    strange = StorageClass("strange", filesystem="zfs", binding="Immediate").manifest()
    cluster.kubectl("create", "-f", "-", given=strange)
    cluster.make(claim("strange", "strange", "Filesystem"))
    said = "parameters.filesystem: 'zfs' is none of directory, ext4"
    cluster.until(said, lambda: said in cluster.kubectl("describe", "pvc", "strange", "-n", NAMESPACE))
    cluster.kubectl("delete", "pvc", "strange", "-n", NAMESPACE)


def test_retained_volumes_stay_when_their_claims_go(cluster: Cluster) -> None:
    kept = StorageClass("kept", binding="Immediate", reclaim="Retain").manifest()
    cluster.kubectl("create", "-f", "-", given=kept)
    cluster.make(claim("kept", "kept", "Filesystem"))
    volume = cluster.until("bound", lambda: cluster.read("pvc", "kept")["spec"].get("volumeName"))
    cluster.until("Bound", lambda: cluster.read("pvc", "kept")["status"]["phase"] == "Bound")
    files = cluster.place("kept").parent
    cluster.kubectl("delete", "pvc", "kept", "-n", NAMESPACE)
    released = ["get", "pv", volume, "-o", "jsonpath={.status.phase}"]
    cluster.until("Released", lambda: cluster.kubectl(*released) == "Released")
    cluster.kubectl("delete", "pv", volume)
    assert files.is_dir()


def test_cdi_tells_of_each_class_what_its_volumes_are_best_made_as(cluster: Cluster) -> None:
    def sets(name: str) -> list[Object]:
        profile = cluster.read("storageprofile", name)
        return list(profile.get("status", {}).get("claimPropertySets", ()))

    cluster.until("profile", lambda: sets("block"))
    for name, modes in {"block": ["Block", "Filesystem"], "ext4": ["Filesystem", "Block"]}.items():
        expected = [{"accessModes": ["ReadWriteOnce"], "volumeMode": mode} for mode in modes]
        assert cluster.until("sets", lambda name=name: sets(name)) == expected

    def overhead() -> Object:
        config = cluster.read("cdiconfig", "config")
        return dict(config.get("status", {}).get("filesystemOverhead", {}))

    whole = overhead()
    assert whole["global"] == whole["storageClass"]["filesystem"] == "0.06"
    asked = json.dumps({"spec": {"filesystemOverhead": {"storageClass": {"filesystem": "0.2"}}}})
    cluster.kubectl("patch", "cdiconfig", "config", "--type=merge", "-p", asked)
    cluster.until("overhead", lambda: overhead()["storageClass"]["filesystem"] == "0.2")
    assert overhead()["global"] == "0.06"


# -- machines


def machine(name: str, *claims: str, strategy: str = "Always", **domain: Object) -> Object:
    """Its disks are virtio ones in the order of the claims; the last boots first. domain: further parts of it."""
    disks: list[Object] = [{"name": f"disk-{one}", "disk": {"bus": "virtio"}} for one in claims]
    for place, disk in enumerate(reversed(disks), 1):
        disk["bootOrder"] = place
    nic = {"name": "net", "model": "e1000e", "macAddress": "00:50:56:aa:bb:01", "masquerade": {}}
    spec = {
        "terminationGracePeriodSeconds": 1,
        "domain": {
            "cpu": {"sockets": 1, "cores": 2, "threads": 1},
            "memory": {"guest": "64Mi"},
            "devices": {"disks": disks, "interfaces": [nic]},
            **domain,
        },
        "networks": [{"name": "net", "pod": {}}],
        "volumes": [{"name": f"disk-{one}", "persistentVolumeClaim": {"claimName": one}} for one in claims],
    }
    whole = {"runStrategy": strategy, "template": {"spec": spec}}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": whole}


def printable(cluster: Cluster, name: str, *words: str, deadline: float = 60.0) -> None:
    def fits() -> bool:
        return cluster.read("vm", name).get("status", {}).get("printableStatus") in words

    try:
        cluster.until(f"{name} {words}", fits, deadline)
    except AssertionError as error:
        error.add_note(cluster.kubectl("describe", "vm,vmi,pod", "-n", NAMESPACE))
        raise


def strategy(cluster: Cluster, name: str, word: str) -> None:
    patch = json.dumps({"spec": {"runStrategy": word}})
    cluster.kubectl("patch", "vm", name, "-n", NAMESPACE, "--type=merge", "-p", patch)


def remove(cluster: Cluster, *names: str) -> None:
    cluster.kubectl("delete", *names, "-n", NAMESPACE, "--wait=true", "--timeout=60s")


@pytest.fixture(scope="module")
def guest_disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks of a guest that writes records on both."""
    folder = tmp_path_factory.mktemp("guest")
    disks = [folder / "a.img", folder / "b.img"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(16 * MIB)
    prepare(disks, folder, slots=64)
    return disks


def filled(cluster: Cluster, name: str, storage: str, mode: str, disk: Path) -> Path:
    """A claim whose volume holds that disk; where it lies."""
    cluster.make(claim(name, storage, mode, "20Mi"))
    cluster.until(f"{name} bound", lambda: cluster.read("pvc", name)["status"]["phase"] == "Bound")
    place = cluster.place(name)
    with disk.open("rb") as source, place.open("r+b" if mode == "Block" else "wb") as target:
        shutil.copyfileobj(source, target)
    return place


def test_a_machine_boots_from_its_claims_writes_is_halted_and_goes_on(
    cluster: Cluster, guest_disks: list[Path]
) -> None:
    first = filled(cluster, "guest-a", "block-now", "Block", guest_disks[0])
    second = filled(cluster, "guest-b", "ext4-now", "Filesystem", guest_disks[1])
    cluster.make(machine("guest", "guest-a", "guest-b"))
    printable(cluster, "guest", "Running")
    seen = cluster.read("vm", "guest")["status"]
    assert (seen["created"], seen["ready"]) == (True, True)
    assert [one["status"] for one in seen["conditions"] if one["type"] == "Ready"] == ["True"]
    instance = cluster.read("vmi", "guest")["status"]
    assert (instance["phase"], instance["nodeName"]) == ("Running", "node")
    assert [(one["name"], one["mac"]) for one in instance["interfaces"]] == [("net", "00:50:56:aa:bb:01")]
    passed = [one["phase"] for one in instance["phaseTransitionTimestamps"]]
    assert passed == ["Pending", "Scheduling", "Scheduled", "Running"]
    assert cluster.console("guest", r"TRANSHIP CHECK last=(\d+)")[1] == "0"
    cluster.console("guest", r"TRANSHIP LAST [1-9]\d\d")

    strategy(cluster, "guest", "Halted")
    printable(cluster, "guest", "Stopped")
    cluster.until("instance gone", lambda: not cluster.objects("vmi"))
    assert cluster.objects("pod") == []
    report = inspect([reader(first), reader(second)])
    assert report.last >= 100
    assert report.bad == 0

    strategy(cluster, "guest", "Always")
    found = cluster.console("guest", rf"TRANSHIP CHECK last={report.last} valid=\d+ bad=0")
    assert found
    before = cluster.read("vmi", "guest")["metadata"]["uid"]
    cluster.kubevirt.type(f"{NAMESPACE}/guest", b"q")  # shut down from within: always means always

    def another() -> bool:
        return any(one["metadata"]["uid"] != before for one in cluster.objects("vmi"))

    cluster.until("another instance", another)
    printable(cluster, "guest", "Running")
    remove(cluster, "vm/guest")
    assert cluster.objects("vmi") == []
    remove(cluster, "pvc/guest-a", "pvc/guest-b")
    assert not first.exists()


def test_after_a_shutdown_from_within_rerun_on_failure_stays_off_and_manual_waits(
    cluster: Cluster, guest_disks: list[Path]
) -> None:
    configure(guest_disks, check_only=True)  # it checks and powers itself off
    try:
        filled(cluster, "short-a", "block-now", "Block", guest_disks[0])
        filled(cluster, "short-b", "block-now", "Block", guest_disks[1])
    finally:
        configure(guest_disks, check_only=False)
    cluster.make(machine("short", "short-a", "short-b", strategy="RerunOnFailure"))
    cluster.console("short", "TRANSHIP CHECK last=0")
    printable(cluster, "short", "Stopped")
    cluster.until("no instance", lambda: not cluster.objects("vmi"))

    def boots() -> int:
        return cluster.kubevirt.console(f"{NAMESPACE}/short").read_text().count("TRANSHIP CHECK")

    assert boots() == 1
    strategy(cluster, "short", "Manual")
    start = json.dumps({"status": {"stateChangeRequests": [{"action": "Start"}]}})
    cluster.kubectl("patch", "vm", "short", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", start)
    cluster.until("a second boot", lambda: boots() == 2)
    cluster.until("Succeeded", lambda: cluster.read("vmi", "short")["status"]["phase"] == "Succeeded")
    printable(cluster, "short", "Stopped")
    assert not cluster.read("vm", "short")["status"].get("stateChangeRequests")
    remove(cluster, "vm/short", "pvc/short-a", "pvc/short-b")


def test_a_claim_that_is_not_there_is_told_until_it_is(cluster: Cluster) -> None:
    """And one that waits for its first consumer is bound by the machine."""
    cluster.make(machine("early", "late"))
    printable(cluster, "early", "ErrorPvcNotFound")
    (synchronized,) = [
        one for one in cluster.read("vm", "early")["status"]["conditions"] if one["type"] == "Synchronized"
    ]
    assert synchronized["reason"] == "FailedPvcNotFound"
    assert synchronized["message"] == f"PVC {NAMESPACE}/late does not exist"
    cluster.make(claim("late", "ext4", "Filesystem"))
    printable(cluster, "early", "Running")
    size = cluster.place("late").stat().st_size  # what KubeVirt makes where there is no disk
    assert size == int(32 * MIB * 0.94) // MIB * MIB
    cluster.kubectl("delete", "pvc", "late", "-n", NAMESPACE, "--wait=false")
    assert "deletionTimestamp" in cluster.read("pvc", "late")["metadata"]
    remove(cluster, "vm/early")
    cluster.until("claim gone", lambda: not cluster.objects("pvc"))


def test_volumes_that_nobody_makes_and_nodes_that_nobody_has_are_told(cluster: Cluster) -> None:
    for name, binding in {"now": "Immediate", "later": "WaitForFirstConsumer"}.items():
        nobody: Object = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
        nobody |= {"provisioner": "example.com/none", "volumeBindingMode": binding}
        cluster.kubectl("create", "-f", "-", given=nobody)
        cluster.make(claim(f"never-{name}", name, "Filesystem"))
    cluster.make(machine("unbound", "never-later"))
    printable(cluster, "unbound", "WaitingForVolumeBinding")
    cluster.make(machine("unscheduled", "never-now"))
    printable(cluster, "unscheduled", "ErrorUnschedulable")
    strategy(cluster, "unbound", "Halted")
    printable(cluster, "unbound", "Stopped")

    elsewhere = machine("elsewhere")
    elsewhere["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "no-such-node"}
    cluster.make(elsewhere)
    printable(cluster, "elsewhere", "ErrorUnschedulable")
    remove(cluster, "vm/unbound", "vm/unscheduled", "vm/elsewhere", "pvc/never-now", "pvc/never-later")


def test_uefi_and_secure_boot_are_what_the_object_says(cluster: Cluster) -> None:
    efi = {"bootloader": {"efi": {"secureBoot": False}}}
    cluster.make(claim("efi", "filesystem", "Filesystem", "1Mi"))
    cluster.make(machine("efi", "efi", firmware=efi, memory={"guest": "128Mi"}))
    cluster.console("efi", "BdsDxe: ", 240)  # what OVMF, and no BIOS, says of a disk without a boot loader
    remove(cluster, "vm/efi", "pvc/efi")

    cluster.make(machine("secure", firmware={"bootloader": {"efi": {}}}))

    def failure() -> str:
        conditions = cluster.read("vm", "secure").get("status", {}).get("conditions", ())
        return next((one["message"] for one in conditions if one["type"] == "Failure"), "")

    assert "efi.secureBoot: it requires SMM" in cluster.until("failure", failure)
    patch = {"spec": {"template": {"spec": {"domain": {"features": {"smm": {"enabled": True}}}}}}}
    cluster.kubectl("patch", "vm", "secure", "-n", NAMESPACE, "--type=merge", "-p", json.dumps(patch))
    printable(cluster, "secure", "Running")
    assert failure() == ""
    remove(cluster, "vm/secure")


def test_what_cannot_start_is_tried_again_later_and_later(cluster: Cluster) -> None:
    cluster.make(claim("torn", "filesystem", "Filesystem"))
    cluster.make(machine("torn", "torn"))
    printable(cluster, "torn", "Running")
    place = cluster.place("torn")
    strategy(cluster, "torn", "Halted")
    printable(cluster, "torn", "Stopped")
    place.unlink()
    place.mkdir()  # nothing that QEMU can open
    strategy(cluster, "torn", "Always")
    printable(cluster, "torn", "CrashLoopBackOff")
    assert cluster.read("vm", "torn")["status"]["startFailure"]["consecutiveFailCount"] == 1
    place.rmdir()
    printable(cluster, "torn", "Running")
    assert "startFailure" not in cluster.read("vm", "torn")["status"]
    remove(cluster, "vm/torn", "pvc/torn")


def test_another_stand_in_goes_on_where_one_was_killed(cluster: Cluster) -> None:
    cluster.make(claim("kept-on", "filesystem", "Filesystem"))
    cluster.make(claim("kept-off", "block-now", "Block"))
    cluster.make(machine("survivor", "kept-on"))
    printable(cluster, "survivor", "Running")
    cluster.until("bound", lambda: cluster.read("pvc", "kept-off")["status"]["phase"] == "Bound")
    before = cluster.read("vmi", "survivor")["metadata"]["uid"]
    place = cluster.place("kept-off")
    place.write_bytes(b"here to stay")
    cluster.kubevirt.close()
    assert not place.exists()
    cluster.kubevirt.start()
    assert cluster.content("kept-off", 12) == b"here to stay"
    cluster.until("another instance", lambda: [one["metadata"]["uid"] for one in cluster.objects("vmi")] != [before])
    printable(cluster, "survivor", "Running")
    remove(cluster, "vm/survivor", "pvc/kept-on", "pvc/kept-off")
    cluster.until("volume gone", lambda: not place.parent.exists())
