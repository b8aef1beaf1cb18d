"""What is handed to clusters is understood by them: by published schemas, and by the commands that it runs."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import commands
from fastseg.commands.train import parse

KUBERNETES = commands.ROOT / "tools" / "kubernetes" / "job.yaml"
SKYPILOT = commands.ROOT / "tools" / "skypilot" / "task.yaml"
VERSIONS = ("1.31", "1.37")
"""The oldest Kubernetes whose podFailurePolicy is stable, and a current one."""

FIELD = {"type": "string"}
TASK = {
    "type": "object",
    "additionalProperties": False,
    "required": ["resources", "run"],
    "properties": {
        "name": FIELD,
        "num_nodes": {"type": "integer", "minimum": 1},
        "workdir": FIELD,
        "setup": FIELD,
        "run": FIELD,
        "envs": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": FIELD,
        },
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accelerators": FIELD,
                "cpus": {"type": ["string", "number"]},
                "disk_size": {"type": ["string", "integer"]},
                "use_spot": {"type": "boolean"},
            },
        },
        "file_mounts": {
            "type": "object",
            "propertyNames": {"pattern": "^/"},
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]+$"},
                    "mode": {"enum": ["MOUNT"]},
                },
            },
        },
    },
}
"""The fields of a SkyPilot task that ours has, by https://docs.skypilot.co/en/latest/reference/yaml-spec.html; the
package itself asks for fifty others."""


@pytest.fixture(scope="module")
def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(kubernetes: list[dict[str, Any]], version: str) -> None:
    assert [document["kind"] for document in kubernetes] == ["Service", "Job"]
    for document in kubernetes:
        kubernetes_validate.validate(document, version, strict=True)
    wrong = copy.deepcopy(kubernetes[1])
    wrong["spec"]["template"]["spec"]["graceSeconds"] = 120
    with pytest.raises(kubernetes_validate.ValidationError, match="graceSeconds"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_pods_find_each_other_and_run_our_commands(kubernetes: list[dict[str, Any]]) -> None:
    service, job = kubernetes
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = container["args"]
    script = words.index("/opt/fastseg/fastseg/train.py")
    torchrun = understood_by_torchrun(words[:script])
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert torchrun.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29500"
    assert int(torchrun.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(torchrun.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    _, config = parse(words[script + 1 :])
    mounted = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    assert Path(config.shards).parent in mounted
    assert config.runs in mounted


def test_skypilot_knows_every_field() -> None:
    task = yaml.safe_load(SKYPILOT.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(TASK).validate(task)
    with pytest.raises(jsonschema.ValidationError, match="spot"):
        jsonschema.validate(task | {"resources": {"spot": True}}, TASK)
    assert set(task["file_mounts"]) == {"/runs"}


def test_what_skypilot_runs_are_our_commands(tmp_path: Path) -> None:
    """The task's own script, in which Python is one that prints what it is given."""
    task = yaml.safe_load(SKYPILOT.read_text(encoding="utf-8"))
    python = tmp_path / "fastseg-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    given = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "sky-1"}
    given |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n", "-c", script], check=True)
    done = subprocess.run(["bash", "-c", task["run"]], env=given | task["envs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    module, launcher, *words = done.stdout.splitlines()
    assert (commands.ROOT / module).is_file()
    assert launcher == "fastseg.distributed.launcher"
    script_at = words.index("fastseg/train.py")
    torchrun = understood_by_torchrun(words[:script_at])
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.rdzv_endpoint) == ("2", "8", "10.0.0.1:29500")
    _, config = parse(words[script_at + 1 :])
    assert (config.shards, str(config.runs), config.save_every) == ("s3://bucket/cityscapes", "/runs", 5)


def understood_by_torchrun(flags: list[str]) -> Any:
    from torch.distributed.run import get_args_parser

    return get_args_parser().parse_args([*flags, "train.py"])
