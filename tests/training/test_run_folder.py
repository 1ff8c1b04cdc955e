import json
import math
import os
import threading

import pytest

from xpconv import _files
from xpconv.training import RunFolder, RunFolderError, RunRecorder, read_checkpoint


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {"lr": 0.1})


def test_the_configuration_comes_back(folder):
    assert RunFolder.open(folder.path).read_config() == {"lr": 0.1}


def test_numbered_folders_are_taken_once(tmp_path):
    """Eight threads that ask at the same time get eight folders."""
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.append(RunFolder.create_numbered(tmp_path / "runs", "net", {}).path.name))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"net-{number}" for number in range(1, 9)]


def test_what_is_there_is_left_alone(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (folder.path, tmp_path / "file"):
        with pytest.raises(RunFolderError, match=rf"{path}: exists and is not an empty folder"):
            RunFolder.create(path, {"lr": 0.2})
    assert folder.read_config() == {"lr": 0.1}
    with pytest.raises(RunFolderError, match="no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"not a run folder: it has no config\.json"):
        RunFolder.open(tmp_path)


def test_the_log_is_json_for_everybody(folder):
    folder.append({"kind": "epoch", "epoch": 1, "loss": 0.5, "accuracy": math.nan})
    folder.append({"kind": "test", "loss": math.inf})
    lines = folder.log.read_text().splitlines()
    assert lines == ['{"kind": "epoch", "epoch": 1, "loss": 0.5, "accuracy": null}', '{"kind": "test", "loss": null}']
    assert folder.records() == [json.loads(line) for line in lines]


def test_rewinding_the_log(folder):
    """What lies beyond the checkpoint goes, a line that was cut off too."""
    kept = [
        {"kind": "step", "step": 2, "epoch": 1},
        {"kind": "epoch", "step": 3, "epoch": 1},
        {"kind": "step", "step": 4, "epoch": 2},
    ]
    gone = [{"kind": "step", "step": 6, "epoch": 2}, {"kind": "epoch", "step": 6, "epoch": 2}, {"kind": "test"}]
    for record in kept + gone:
        folder.append(record)
    with open(folder.log, "a") as log:
        log.write('{"kind": "st')
    folder.rewind(5, 1)
    assert folder.records() == kept
    # an epoch whose steps are done but which is not finished: its validation comes again, and its line with it
    folder.append({"kind": "epoch", "step": 6, "epoch": 2})
    folder.rewind(6, 1)
    assert folder.records() == kept


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_told_with_the_name_of_the_log(folder):
    folder.log.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*log\.jsonl'"):
        folder.append({"kind": "test"})


def test_a_full_disk_is_told_with_the_name_of_the_file(folder, monkeypatch):
    def fail(*arguments):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "write", fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*config\.json'"):
            folder.write_config({"lr": 0.2})
    assert folder.read_config() == {"lr": 0.1}


def test_recorder(folder, make_trainer, make_batches, test_set):
    trainer = make_trainer(callbacks=[RunRecorder(folder, log_every=4)])
    trainer.fit(make_batches(), epochs=2, validation=test_set)
    records = folder.records()
    assert [(r["kind"], r["step"]) for r in records] == [
        ("step", 4), ("epoch", 6), ("step", 8), ("step", 12), ("epoch", 12),
    ]  # fmt: skip
    step = next(r for r in records if r["kind"] == "step")
    assert step["position"] == round(4 / 6, 4)
    assert step["images_per_second"] > 0
    assert step["loss"] != step["batch_loss"]
    for record, line in zip(trainer.history, (r for r in records if r["kind"] == "epoch"), strict=True):
        assert {"kind": "epoch", **record} == line
    assert read_checkpoint(folder.last).state["step"] == 12
    assert read_checkpoint(folder.best).state["epoch"] == trainer.best["epoch"]
    assert folder.report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(os.listdir(folder.path)) == [
        "best.safetensors", "config.json", "last.safetensors", "log.jsonl", "report.html",
    ]  # fmt: skip


def test_the_log_of_a_resumed_run(folder, tmp_path, make_trainer, make_batches, test_set):
    """Killed with more in the log than in the checkpoint: afterwards the log is that of a whole run."""
    whole = RunFolder.create(tmp_path / "whole", {})
    make_trainer(callbacks=[RunRecorder(whole, log_every=4)]).fit(make_batches(), epochs=3, validation=test_set)

    class Kill(RunRecorder):
        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            if trainer.step == 8:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(callbacks=[Kill(folder, log_every=4)]).fit(make_batches(), epochs=3, validation=test_set)
    assert folder.records()[-1]["step"] == 8
    resumed = make_trainer(folder.last, callbacks=[RunRecorder(folder, log_every=4)])
    assert resumed.step == 6
    resumed.fit(make_batches(), epochs=3, validation=test_set)

    def lines(run):
        return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in run.records()]

    assert lines(folder) == lines(whole)


def test_bad_interval(folder):
    with pytest.raises(ValueError, match="log_every: must be at least 1, got 0"):
        RunRecorder(folder, log_every=0)


def test_no_page_ends_a_run(folder, make_trainer, train_set, monkeypatch):
    def fail(folder):
        raise ValueError("no colours left")

    monkeypatch.setattr("xpconv.report.write_report", fail)
    monkeypatch.setattr("xpconv.training.run_folder._SECONDS_BETWEEN_PAGES", -1)
    with pytest.warns(RuntimeWarning, match=r"report\.html: cannot be written: no colours left") as warned:
        make_trainer(callbacks=[RunRecorder(folder)]).fit(train_set, epochs=2, batch_size=21)
    assert len(warned) == 1
