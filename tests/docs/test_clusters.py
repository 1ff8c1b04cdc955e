"""The scripts of docs/guides/clusters.md: what can be checked of them without a cluster."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xpconv.cli import build_parser

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "clusters.md"
if not PAGE.exists():
    pytest.skip("an installed package, without its pages", allow_module_level=True)


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def manifest():
    yaml = pytest.importorskip("yaml", reason="the manifest is YAML")
    (text,) = blocks("yaml")
    return yaml.safe_load(text)


def launcher_script():
    container = manifest()["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["/bin/bash", "-c"]
    (script,) = container["args"]
    return script


def run_bash(script, *options, **variables):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        [bash, *options], input=script, capture_output=True, text=True, env=environment, timeout=20, check=False
    )


def test_the_scripts_are_bash():
    for script in (*blocks("bash"), *blocks("sh"), launcher_script()):
        done = run_bash(script, "-n")
        assert (done.returncode, done.stderr) == (0, ""), script


# Stand-ins for what a cluster has: they print what they were called with.
STUBS = """
module() { :; }
srun() { echo "srun $*"; return "$CODE"; }
scontrol() { echo "scontrol $*"; }
mpiexec() { echo "mpiexec $*"; return "$CODE"; }
"""


def train_options(line):
    """What the parser of xpconv makes of the command in a line."""
    words = line[line.index("xpconv ") :].split()[1:]
    return build_parser().parse_args(words)


@pytest.mark.parametrize("before", ["nothing", "a folder", "a checkpoint"])
@pytest.mark.parametrize("code", [0, 1, 75])
def test_the_batch_script(tmp_path, before, code):
    """It starts, or goes on where there is a checkpoint; and asks to be started again for status 75 alone."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    run = tmp_path / "runs" / "resnet20"
    if before != "nothing":
        run.mkdir(parents=True)
        (run / "config.json").touch()
    if before == "a checkpoint":
        (run / "last.safetensors").touch()
    script = next(block for block in blocks("bash") if block.startswith("#!/bin/bash"))
    done = run_bash(STUBS + script, HOME=str(tmp_path), SLURM_CPUS_PER_TASK="8", SLURM_JOB_ID="17", CODE=str(code))
    assert (done.returncode, done.stderr) == (code, "")
    first, *others = done.stdout.splitlines()
    assert others == (["scontrol requeue 17"] if code == 75 else [])
    options = train_options(first)
    assert options.save_every == 500
    if before == "a checkpoint":
        assert (options.resume, options.out) == (str(run), None)
    else:
        assert (options.resume, options.out) == (None, str(run))
        assert not run.exists()  # what was there has another name now
        assert len(list(tmp_path.glob("runs/resnet20.*"))) == (before == "a folder")


def test_what_slurm_is_told():
    script = next(block for block in blocks("bash") if block.startswith("#!/bin/bash"))
    told = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script, re.MULTILINE))
    assert told["signal"] == "TERM@180"
    assert told.keys() >= {"requeue", "open-mode", "ntasks-per-node", "cpus-per-task"}
    assert script.count("#SBATCH") == len(told)


def test_the_manifest():
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    roles = job["spec"]["mpiReplicaSpecs"]
    assert roles["Launcher"]["restartPolicy"] == "OnFailure"
    for role in roles.values():
        pod = role["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    script = launcher_script().replace("/runs/", "/nowhere/")
    done = run_bash(STUBS + script, CODE="3")
    assert (done.returncode, done.stderr) == (3, "")
    ranks = int(re.search(r"-n (\d+)", done.stdout)[1])
    assert ranks == roles["Worker"]["replicas"] * job["spec"]["slotsPerWorker"]
    cpus = roles["Worker"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    assert f"XPCONV_NUM_THREADS={cpus} " in done.stdout
    options = train_options(done.stdout)
    assert (options.out, options.save_every, options.data) == ("/nowhere/resnet20", 200, "cifar10")


def test_a_launcher_that_is_told_to_go_lets_the_ranks_save():
    stub = """
mpiexec() {
    trap 'echo saved; exit 75' USR1
    sleep 0.5
    kill -TERM $$
    for _ in {1..100}; do sleep 0.05; done
}
"""
    done = run_bash(stub + launcher_script().replace("/runs/", "/nowhere/"))
    assert (done.returncode, done.stdout, done.stderr) == (75, "saved\n", "")


def test_the_commands_of_the_other_examples():
    others = [block for block in blocks("bash") if not block.startswith("#!/bin/bash")]
    lines = [line for block in others for line in block.splitlines() if "xpconv " in line]
    assert len(lines) == 2
    for line in lines:
        train_options(line.replace('"${arguments[@]}"', "--data cifar10").replace('"', ""))
