"""The command: its six jobs, what it prints and exits with, and one line for every bad file."""

import contextlib
import errno
import gzip
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import h5py
import numpy as np
import pandas as pd
import polars
import pytest
import zarr
from sklearn import datasets, metrics
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import polyloss as pl
from polyloss.__main__ import main
from polyloss._adapters import dask_cluster as _cluster
from polyloss._command import arrays, table_formats
from polyloss._command.app import app
from polyloss._command.problems import BadFile, Unwritten, usage, writing
from polyloss._command.report import as_lines
from polyloss._command.scoring import Score, in_parts
from polyloss._command.table_reading import reading
from polyloss._core.block import LOSSES
from polyloss._evaluation.measure import WEIGHTS

TRUTH = "id,label\n1,cat\n2,dog\n3,bird\n"
GOOD = "id,bird,cat,dog\n2,0.1,0.2,0.7\n1,0.1,0.8,0.1\n3,0.6,0.2,0.2\n"
ZSTD = bytes.fromhex(  # what the program zstd makes of GOOD
    "28b52ffd0458b50100c40269642c626972642c6361742c646f670a322c302e312c302e322c302e370a31382c302e310a332c302e36320a02003fb33fb2e904078bc3d0"
)


def zstd(text):
    """A short text as zstd: a frame with a block that is not compressed."""
    raw = text.encode()
    return bytes.fromhex("28b52ffd20") + bytes([len(raw)]) + (len(raw) << 3 | 1).to_bytes(3, "little") + raw


SCORE = -np.log([0.8, 0.7, 0.6]).mean()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("truth.csv").write_text(TRUTH)
    Path("good.csv").write_text(GOOD)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run ``polyloss score``: exit status, fields of each line of stdout, stderr."""

    def score(*arguments):
        status = main(["score", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, [line.split("\t") for line in out.splitlines()], err

    return score


def in_json(run, *arguments, status=0):
    got, lines, _ = run(*arguments, "--json")
    assert got == status
    return json.loads("".join("\t".join(line) for line in lines))


# ------------------------------------------------------------------------------------------------------------------ six jobs


def kaggle(n=3000, seed=0):
    """Truth and submission of Kaggle's shape: string labels, columns and rows in other orders, probabilities of six digits."""
    rng = np.random.default_rng(seed)
    names = np.array(["cat", "dog", "bird", "eel"])
    y, z = rng.integers(0, 4, n), rng.standard_normal((n, 4))
    z[np.arange(n), y] += 1
    p = (np.exp(z) / np.exp(z).sum(1, keepdims=True)).round(6)
    ids, order = np.arange(n) * 7 + 13, rng.permutation(n)
    usage = np.where(np.arange(n) % 3 == 0, "Public", "Private")
    truth = polars.DataFrame({"id": ids, "label": names[y], "Usage": usage, "w": rng.random(n).round(3)})
    submission = polars.DataFrame({"id": ids[order], **{names[c]: p[order, c] for c in (3, 1, 0, 2)}})
    return truth, submission, y, p


def test_a_competition(run):
    truth, submission, y, p = kaggle()
    truth.write_csv("solution.csv")
    submission.write_csv("submission.csv")
    status, lines, err = run("solution.csv", "submission.csv", "--kaggle", "--weight", "w")
    w = truth["w"].to_numpy()
    rescaled = np.clip((p / p.sum(1, keepdims=True))[np.arange(len(y)), y], 1e-15, 1 - 1e-15)
    assert status == 0
    assert err == ""
    assert lines[0][:2] == ["submission.csv", "log_loss"]
    assert float(lines[0][2]) == pytest.approx(np.average(-np.log(rescaled), weights=w), rel=1e-14)
    # scikit-learn's number without --kaggle, and the same bits from every format and split
    submission.write_parquet("submission.parquet")
    submission.write_ipc("submission.arrow")
    submission.write_csv("submission.tsv", separator="\t")
    Path("submission.csv.gz").write_bytes(gzip.compress(Path("submission.csv").read_bytes()))
    for k in range(3):
        submission[k * 1000 : (k + 1) * 1000].write_csv(f"part{k}.csv")
    files = ["submission.csv", "submission.parquet", "submission.arrow", "submission.tsv", "submission.csv.gz"]
    status, lines, _ = run("solution.csv", *files, "--target", "label", "-q")
    _, parts, _ = run("solution.csv", "part*.csv", "--parts", "--target", "label")
    assert parts[0][0] == "part*.csv"
    assert {line[2] for line in [*lines, *parts]} == {lines[0][2]}
    assert float(lines[0][2]) == pytest.approx(metrics.log_loss(y, p / p.sum(1, keepdims=True)), rel=1e-5)


def test_groups_and_ignored_rows(run):
    truth, submission, y, p = kaggle()
    truth.with_columns(Usage=polars.when(polars.col("id") < 100).then(polars.lit("Ignored")).otherwise("Usage")).write_csv("solution.csv")
    submission.filter(polars.col("id") != 13).write_csv("submission.csv")  # an ignored row may be absent
    rows = in_json(run, "solution.csv", "submission.csv", "--kaggle", "--group-by", "Usage", "--target", "label")["scores"]
    used = truth["id"].to_numpy() >= 100
    usage = truth["Usage"].to_numpy()
    losses = -np.log((p / p.sum(1, keepdims=True))[np.arange(len(y)), y])
    assert [row["group"] for row in rows] == ["Private", "Public", None]
    for row in rows:
        here = used & ((usage == row["group"]) if row["group"] else True)
        assert row["score"] == pytest.approx(losses[here].mean(), rel=1e-13)
        assert row["count"] == here.sum()
        assert row["stderr"] == pytest.approx(losses[here].std(ddof=1) / np.sqrt(here.sum()), rel=1e-9)
    _, lines, _ = run("solution.csv", "submission.csv", "--kaggle", "--group-by", "Usage", "--target", "label")
    assert [line[2] for line in lines] == ["Private", "Public", ""]


def test_an_ignored_row_may_have_no_label(run):
    Path("solution.csv").write_text("id,label,Usage\n1,cat,Public\n2,dog,Private\n3,bird,Private\n4,,Ignored\n")
    assert run("solution.csv", "good.csv", "--kaggle")[1] == [["good.csv", "log_loss", repr(float(SCORE))]]


def test_names_with_the_ends_of_fields_and_lines(run):
    """Each score stays one line of three or four fields."""
    Path("truth.csv").write_text('id,label,g\n1,cat,"a\tb"\n2,dog,"x\ny"\n3,bird,z\n')
    Path("a\tb.csv").write_text(GOOD)
    _, lines, _ = run("truth.csv", "a\tb.csv", "--group-by", "g")
    assert [line[:3] for line in lines] == [["a\\tb.csv", "log_loss", group] for group in ("a\\tb", "x\\ny", "z", "")]
    assert [row["group"] for row in in_json(run, "truth.csv", "a\tb.csv", "--group-by", "g")["scores"]] == ["a\tb", "x\ny", "z", None]


def test_different_names_are_written_differently(run):
    """A tab and a backslash before a t; a group of empty cells and all rows."""
    Path("truth.csv").write_text('id,label,g\n1,cat,"a\tb"\n2,dog,a\\tb\n3,bird,\n')
    groups = [line[2] for line in run("truth.csv", "good.csv", "--group-by", "g")[1]]
    assert groups == ["\\N", "a\\tb", "a\\\\tb", ""]
    assert [row["group"] for row in in_json(run, "truth.csv", "good.csv", "--group-by", "g")["scores"]] == ["", "a\tb", "a\\tb", None]
    Path("truth.csv").write_text("id,label,g\n1,cat,\\N\n2,dog,\\N\n3,bird,\n")
    assert [line[2] for line in run("truth.csv", "good.csv", "--group-by", "g")[1]] == ["\\N", "\\\\N", ""]


def test_backslashes_between_folders_stay(monkeypatch):
    """On Windows; the name of an array in a file may hold any character, and that of a group."""
    monkeypatch.setattr(os, "sep", "\\")
    row = Score(r"C:\new\a.h5::x" "\t" r"\y", "log_loss", r"g\h", 0.5, 0.1, 1.0, 1, [])
    assert as_lines([row], True).split("\t") == [r"C:\new\a.h5::x\t\\y", "log_loss", r"g\\h", "0.5"]


def test_nothing_counts(run):
    """A score of 0 of nothing is told from that of a perfect file."""
    Path("truth.csv").write_text("id,label,w,g\n1,cat,0,a\n2,dog,0,b\n3,bird,0,b\n")
    said = "is 0.0, since nothing counts: every weight is 0, or every label ignored"
    assert run("truth.csv", "good.csv", "--weight", "w", "--target", "label") == (
        0,
        [["good.csv", "log_loss", "0.0"]],
        f"polyloss score: warning: good.csv: the log_loss {said}\n",
    )
    found = in_json(run, "truth.csv", "good.csv", "--weight", "w", "--target", "label", "--group-by", "g")["scores"]
    assert [row["warnings"] for row in found] == [[f"the log_loss{group} {said}"] for group in (" of group 'a'", " of group 'b'", "")]
    np.save("y.npy", np.full(3, 9)), np.save("z.npy", np.zeros((3, 2)))
    assert f"z.npy: the softmax_loss {said}" in run("y.npy", "z.npy", "-l", "softmax_loss", "--ignore-label", 9)[2]
    # A gate lets nothing pass that it has not measured; groups may be empty.
    table = "truth.csv", "good.csv", "--weight", "w", "--target", "label", "--fail-above", 1, "-q"
    none = f"polyloss score: good.csv: the log_loss {said}; --fail-above has nothing to go by\n"
    assert run(*table) == (1, [["good.csv", "log_loss", "0.0"]], none)
    assert run(*table, "--group-by", "g")[::2] == (1, none)
    assert run("y.npy", "z.npy", "-l", "softmax_loss", "--ignore-label", 9, "--fail-above", 1, "-q")[0] == 1
    Path("truth.csv").write_text("id,label,w,g\n1,cat,0,a\n2,dog,1,b\n3,bird,1,b\n")
    assert run(*table, "--group-by", "g")[::2] == (0, "")


def test_paired(run):
    truth, submission, y, p = kaggle()
    truth.write_csv("solution.csv")
    submission.write_csv("old.csv")
    q = 0.9 * p + 0.025
    ids = truth["id"].to_numpy()
    polars.DataFrame({"id": ids, **dict(zip(["cat", "dog", "bird", "eel"], q.T, strict=True))}).write_csv("new.csv")
    rows = in_json(run, "solution.csv", "old.csv", "new.csv", "--paired", "--target", "label", "-q")["scores"]
    d = -np.log(q[np.arange(len(y)), y]) + np.log(p[np.arange(len(y)), y])
    assert "difference" not in rows[0]
    assert rows[1]["difference"] == pytest.approx(d.mean(), rel=1e-6)
    assert rows[1]["difference"] == pytest.approx(rows[1]["score"] - rows[0]["score"], rel=1e-6)
    assert rows[1]["difference_stderr"] == pytest.approx(d.std(ddof=1) / np.sqrt(d.size), rel=1e-6)
    assert rows[1]["z"] == pytest.approx(rows[1]["difference"] / rows[1]["difference_stderr"])
    assert 0 <= rows[1]["p"] <= 1


def test_arrays(run):
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((500, 30)).astype(np.float32), rng.integers(0, 30, 500).astype(np.int16)
    np.save("y.npy", y)
    np.save("z.npy", z)
    np.savez("both.npz", y=y, z=z)
    status, lines, _ = run("y.npy", "z.npy", "-l", "softmax_loss", "-l", "poly1:poly_epsilon=2.0")
    assert status == 0
    assert [line[1] for line in lines] == ["softmax_loss", "poly1_crossentropy:poly_epsilon=2.0"]
    assert float(lines[0][2]) == pytest.approx(float(pl.softmax_loss(y, z.astype(np.float64))), rel=1e-6)
    assert run("both.npz::y", "both.npz::z", "-l", "softmax_loss")[1][0][2] == lines[0][2]
    rows = in_json(run, "y.npy", "z.npy", "z.npy", "-l", "softmax_loss", "--paired")["scores"]
    assert (rows[1]["difference"], rows[1]["z"], rows[1]["p"]) == (0, 0, 1)


def test_arrays_of_one_axis(run, monkeypatch):
    """One number for each sample, however many are read at once; an axis of samples is not the loss's own."""
    monkeypatch.setattr("polyloss._command.arrays.SLAB", 800)
    t, p = np.linspace(0, 3, 500), np.linspace(0, 3, 500) ** 2
    np.save("t.npy", t), np.save("p.npy", p), np.save("q.npy", p + 1)
    np.save("t2.npy", np.stack([t, t], 1)), np.save("p2.npy", np.stack([p, p], 1))
    found = in_json(run, "t.npy", "p.npy", "-l", "mse")["scores"][0]
    np.testing.assert_allclose(found["score"], np.mean((t - p) ** 2), rtol=1e-15)
    assert found["count"] == 500
    status, scores, _ = run("t.npy", "p.npy", "q.npy", "-l", "mse", "--paired")
    assert status == 0
    np.testing.assert_allclose([float(score[2]) for score in scores], [np.mean((t - p) ** 2), np.mean((t - p - 1) ** 2)], rtol=1e-15)
    status, _, err = run("t.npy", "p.npy", "-l", "cosine")
    assert status == 1
    assert "p.npy: has one axis, that of cosine_similarity" in err
    for arguments in (("mse", "--axis", "0"), ("mse:axis=-2",), ("softmax_loss:axis=0",)):
        status, _, err = run("t2.npy", "p2.npy", "-l", *arguments)
        assert status == 2
        assert "the first axis of p2.npy is that of the samples" in err


def test_a_segmentation_by_slabs(run, monkeypatch):
    from polyloss._command import arrays

    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((20, 5, 8, 8)).astype(np.float32), rng.integers(0, 5, (20, 8, 8)).astype(np.uint8)
    y[:, 0] = 255
    group = zarr.open_group("seg.zarr", mode="w")
    for name, x in (("labels", y), ("logits", z)):
        group.create_array(name, shape=x.shape, chunks=(3, *x.shape[1:]), dtype=x.dtype)[:] = x
    with h5py.File("seg.h5", "w") as file:
        file["labels"], file["deep/logits"] = y, z
    np.save("y.npy", y)
    np.save("z.npy", z)
    scores = set()
    for slab in (arrays.SLAB, 5 * 8 * 8 * 4 * 7):
        monkeypatch.setattr(arrays, "SLAB", slab)
        for pair in (("seg.zarr::labels", "seg.zarr::logits"), ("seg.h5::labels", "seg.h5::deep/logits"), ("y.npy", "z.npy")):
            status, lines, err = run(*pair, "-l", "softmax_loss", "--ignore-label", 255)
            assert (status, err) == (0, "")
            scores.add(lines[0][2])
    assert len(scores) == 1
    assert float(scores.pop()) == pytest.approx(float(pl.softmax_loss(y, z.astype(np.float64), ignore_label=255)), rel=1e-6)
    y[17, 3, 4] = 40
    np.save("y.npy", y)
    status, _, err = run("y.npy", "z.npy", "-l", "softmax_loss", "--ignore-label", 255)
    assert status == 1
    assert "y.npy: [17, 3, 4] is 40, but z.npy has 5 classes on axis 1 and --ignore-label" in err  # in the whole file, not in its slab


def test_arrays_in_groups_of_groups(run):
    """Zarr's are named as HDF5's are."""
    y, z = np.arange(6) % 3, np.random.default_rng(0).standard_normal((6, 3))
    np.save("y.npy", y), np.save("z.npy", z)
    zarr.open_group("a.zarr", mode="w").create_group("out").create_array("z", data=z)
    with h5py.File("a.h5", "w") as file:
        file["out/z"] = z
    want = run("y.npy", "z.npy", "-l", "softmax_loss")[1][0][2]
    for path in ("a.zarr::out/z", "a.zarr", "a.h5::out/z", "a.h5"):
        assert run("y.npy", path, "-l", "softmax_loss")[1] == [[path, "softmax_loss", want]]
    assert run("y.npy", "a.zarr::z", "-l", "softmax_loss")[2] == "polyloss score: a.zarr: has no array 'z'; it has 'out/z'\n"
    Path("none.zarr").mkdir()
    said = "polyloss score: none.zarr: holds neither an array nor a group of Zarr\n"
    assert run("y.npy", "none.zarr", "-l", "softmax_loss") == (1, [], said)


def test_chunks_that_were_never_written(run):
    """A file whose writer stopped halfway is read without an error, as zeros."""
    np.save("y.npy", np.zeros(10, int))
    left = "never written, or left out since they hold nothing else"
    group = zarr.open_group("a.zarr", mode="w")
    group.create_array("half", shape=(10, 2), chunks=(3, 2), dtype="f4")[:6] = 1
    group.create_array("whole", data=np.ones((10, 2), np.float32), chunks=(3, 2))
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("half", (10, 2), "f4", chunks=(3, 2))[:6] = 1
        file.create_dataset("none", (10, 2), "f4")
        file.create_dataset("whole", data=np.ones((10, 2)), chunks=(3, 2), compression="gzip")
        file["plain"] = np.ones((10, 2))
    for path, said in (
        ("a.zarr::half", f"chunks that are not there are read as 0.0: 2 of 4, {left}"),
        ("a.h5::half", "chunks that were never written are read as 0.0: 2 of 4"),
        ("a.h5::none", "chunks that were never written are read as 0.0: 1 of 1"),
        ("a.zarr::whole", ""),
        ("a.h5::whole", ""),
        ("a.h5::plain", ""),
    ):
        status, _, err = run("y.npy", path, "-l", "softmax_loss")
        assert (status, err) == (0, said and f"polyloss score: warning: {path}: {said}\n")
    np.save("z.npy", np.ones((10, 2)))
    group.create_array("y", shape=(10,), chunks=(3,), dtype="i8")[:6] = 1
    with h5py.File("a.h5", "a") as file:
        file.create_dataset("y", (10,), "i8", chunks=(3,))[:6] = 1
    for truth, lack in (
        ("a.zarr::y", f"are not there are read as 0: 2 of 4, {left}"),
        ("a.h5::y", "were never written are read as 0: 2 of 4"),
    ):
        said = f"z.npy: of {truth}, chunks that {lack}"
        assert run(truth, "z.npy", "-l", "softmax_loss")[::2] == (0, f"polyloss score: warning: {said}\n")


def test_a_gate(run):
    truth = polars.DataFrame({"id": ["a", "b", "c", "d"], "price": [1.0, 2.0, 3.0, 5.0]})
    truth.write_parquet("truth.parquet")
    Path("preds").mkdir()
    for k in range(2):
        polars.DataFrame({"id": truth["id"][2 * k : 2 * k + 2], "price": [1.5, 2.5]}).write_parquet(f"preds/{k}.parquet")
    mse = (0.25 + 0.25 + 2.25 + 6.25) / 4
    assert run("truth.parquet", "preds/*.parquet", "--parts", "-l", "mse", "--fail-above", 2.3, "-q") == (
        0,
        [["preds/*.parquet", "mean_squared_error", repr(mse)]],
        "",
    )
    assert run("truth.parquet", "preds/*.parquet", "--parts", "-l", "mse", "--fail-above", 2.2, "-q")[0] == 3


def labelled(run):
    """One table of ids, labels, weights and predictions, three parts of it, and the options that say so."""
    truth, submission, _, _ = kaggle()
    truth.write_csv("solution.csv")
    submission.write_csv("submission.csv")
    whole = submission.join(truth, on="id")
    whole.write_csv("whole.csv")
    for k, rows in enumerate((slice(0, 10), slice(10, 2000), slice(2000, 3000))):
        whole[rows].write_parquet(f"part{k}.parquet")
    return "--target", "label", "--weight", "w", "--group-by", "Usage", "-q"


def test_tables_that_carry_their_labels(run):
    options = labelled(run)
    want = [line[1:] for line in run("solution.csv", "submission.csv", *options)[1]]
    assert [line[1:] for line in run("whole.csv", "whole.csv", *options)[1]] == want
    status, lines, err = run("part*.parquet", "part*.parquet", "--parts", *options)
    assert (status, [line[1:] for line in lines], err) == (0, want, "")
    assert {line[0] for line in lines} == {"part*.parquet"}
    assert [line[0] for line in run("part*.parquet", "part*.parquet", *options)[1]][::3] == [f"part{k}.parquet" for k in range(3)]
    assert run("whole.csv", "whole.csv")[0] == 2
    assert run("whole.csv", "whole.csv", *options, "--paired")[0] == 2
    polars.read_parquet("part1.parquet").drop("eel").write_parquet("part1.parquet")
    status, lines, err = run("part*.parquet", "part*.parquet", "--parts", *options)
    assert (status, lines) == (1, [])
    assert err == "polyloss score: part1.parquet: no column for class 'eel'; it has 'dog', 'cat', 'bird'\n"


def test_truth_values_that_are_not_written_in_one_way(run):
    """In the order of text "1" comes before "False" and "True": the second of such labels is not the second class."""

    def write(name, *labels, column="p"):
        chances = [0.9 if label in ("1", "True", "true", "TRUE") else 0.2 for label in labels]
        rows = [f"{name}{k},{label},{p}" for k, (label, p) in enumerate(zip(labels, chances, strict=True))]
        Path(f"{name}.csv").write_text("\n".join([f"id,label,{column}", *rows, ""]))
        Path(f"truth-{name}.csv").write_text("\n".join(["id,label", *(row.rsplit(",", 1)[0] for row in rows), ""]))
        Path(f"only-{name}.csv").write_text("\n".join([f"id,{column}", *(f"{name}{k},{p}" for k, p in enumerate(chances)), ""]))

    pairs = "0 and 1, False and True, false and true, FALSE and TRUE"
    rule = f"truth values beside one column of probabilities must be written in one way: {pairs}"
    parts = "?.csv", "?.csv", "--parts", "--target", "label", "-l", "log_loss"
    write("a", "1", "0")
    for labels in (("1", "False"), ("1", "True"), ("0", "True"), ("True", "false"), ("1", "0", "True"), ("1.0", "False")):
        write("b", *labels)
        shown = ", ".join(map(repr, sorted(labels)))
        for truth, arguments in (
            ("b", parts),
            ("b", ("b.csv", "b.csv", "--target", "label", "-l", "log_loss")),
            ("truth-b", ("truth-b.csv", "only-b.csv", "-l", "log_loss")),
        ):
            status, lines, err = run(*arguments)
            assert (status, lines, err) == (1, [], f"polyloss score: {truth}.csv: column 'label' has the labels {shown}, but {rule}\n")
    # Each part in its own way, also where one label of the two is there.
    for labels in (("True", "False"), ("True",), ("False",), ("0",), ("TRUE", "FALSE"), ("false",)):
        write("b", *labels)
        chance = [0.9, 0.8, *(0.9 if label.upper() == "TRUE" else 0.8 for label in labels)]
        status, lines, _ = run(*parts)
        assert status == 0
        assert float(lines[0][2]) == pytest.approx(-np.log(chance).mean(), rel=1e-12)
    # A column of the first class, which not all parts have; in another spelling it is refused.
    write("a", "1", "0", column="0")
    write("b", "1", column="0")
    status, lines, _ = run(*parts)
    assert status == 0
    assert float(lines[0][2]) == pytest.approx(-np.log([0.1, 0.2, 0.1]).mean(), rel=1e-12)
    write("b", "True", "False", column="0")
    said = f"b.csv: column '0' is of probabilities, but the labels of b.csv are 'False', 'True': {rule}"
    assert run(*parts) == (1, [], f"polyloss score: {said}\n")


def test_parts_with_one_column_of_probabilities(run):
    Path("a.csv").write_text("id,y,p\n1,1,0.9\n2,1,0.5\n")
    Path("b.csv").write_text("id,y,p\n3,0,0.1\n")
    options = "--target", "y", "--parts", "-l", "log_loss"
    assert run("[ab].csv", "[ab].csv", *options)[1][0][2] == repr(float(-np.log([0.9, 0.5, 0.9]).mean()))
    Path("b.csv").write_text("id,y,p\n3,0,0.1\n2,0,0.1\n")
    assert run("[ab].csv", "[ab].csv", *options)[2] == "polyloss score: b.csv: id 2 stands in a.csv, too, but must stand once\n"
    Path("b.csv").write_text("id,y,p\n3,9,0.1\n4,8,0.1\n")
    assert "b.csv: column 'y' has the labels '8', '9', but must hold 0 and 1, or true" in run("[ab].csv", "[ab].csv", *options)[2]
    for true, false in (("True", "False"), ("true", "false"), ("TRUE", "FALSE")):  # each part has one of them
        Path("a.csv").write_text(f"id,y,p\n1,{true},0.9\n2,{true},0.5\n")
        Path("b.csv").write_text(f"id,y,p\n3,{false},0.1\n")
        assert run("[ab].csv", "[ab].csv", *options)[1][0][2] == repr(float(-np.log([0.9, 0.5, 0.9]).mean()))


def test_one_column_where_labels_are_odd(run):
    """The second of -1 and 0 is 0; where no row counts there is none."""
    Path("p.csv").write_text("id,p\n1,0.9\n2,0.2\n")
    Path("t.csv").write_text("id,y\n1,0\n2,-1\n")
    assert float(run("t.csv", "p.csv", "-l", "log_loss")[1][0][2]) == pytest.approx(-np.log([0.9, 0.8]).mean())
    Path("t.csv").write_text("id,y,Usage\n1,0,Ignored\n2,1,Ignored\n")
    assert run("t.csv", "p.csv", "-l", "log_loss", "--kaggle") == (
        1,
        [["p.csv", "log_loss", "nan"]],
        "polyloss score: p.csv: the log_loss is NaN: nothing counts\n",
    )


def test_data_and_predictions_of_others(run):
    """scikit-learn's data sets, the probabilities of its models as pandas and NumPy write them, and its own scores of these."""
    for load in (datasets.load_iris, datasets.load_digits, datasets.load_breast_cancer):
        data = load(as_frame=True)
        names, test = [str(name) for name in data.target_names], np.arange(len(data.target)) % 2 == 1
        y, ids = data.target[test].to_numpy(), pd.Index(np.flatnonzero(test), name="id")
        pd.DataFrame({"kind": np.array(names)[y]}, ids).to_csv("solution.csv")
        np.save("y.npy", y)
        want, files = [], []
        for model in (LogisticRegression(max_iter=200), RandomForestClassifier(20, random_state=0)):
            fitted = make_pipeline(StandardScaler(), model).fit(data.data[~test], data.target[~test])
            p, file = fitted.predict_proba(data.data[test]), type(model).__name__
            pd.DataFrame(p, ids, names).sample(frac=1, random_state=0).to_csv(f"{file}.csv")
            np.save(f"{file}.npy", p)
            want.append(metrics.log_loss(y, p))
            files.append(file)
        found = [
            *run("solution.csv", *(f"{file}.csv" for file in files))[1],
            *run("y.npy", *(f"{file}.npy" for file in files), "-l", "log_loss")[1],
        ]
        np.testing.assert_allclose([float(line[2]) for line in found], [*want, *want], rtol=1e-12)
        gap = in_json(run, "solution.csv", *(f"{file}.csv" for file in files), "--paired")["scores"][1]["difference"]
        assert gap == pytest.approx(want[1] - want[0], rel=1e-9)
    data = datasets.load_diabetes(as_frame=True)
    guess = Ridge().fit(data.data, data.target).predict(data.data)
    data.target.rename_axis("id").to_csv("solution.csv")
    for k in range(2):
        pd.Series(guess[k::2], data.target.index[k::2], name="target").rename_axis("id").to_csv(f"part{k}.csv")
    _, lines, _ = run("solution.csv", "part*.csv", "--parts", "-l", "mse", "-l", "mae")
    want = metrics.mean_squared_error(data.target, guess), metrics.mean_absolute_error(data.target, guess)
    np.testing.assert_allclose([float(line[2]) for line in lines], want, rtol=1e-13)


# ------------------------------------------------------------------------------------------------------------------ columns


def test_two_classes_in_one_column(run):
    Path("t.csv").write_text("id,y\n1,10\n2,9\n3,9\n")
    Path("p.csv").write_text("id,p\n1,0.9\n2,0.2\n3,0.5\n")
    _, lines, _ = run("t.csv", "p.csv", "-l", "log_loss")  # 10 is the second class, by value
    assert float(lines[0][2]) == pytest.approx(-np.log([0.9, 0.8, 0.5]).mean())
    assert run("t.csv", "p.csv")[0] == 2
    Path("t.csv").write_text("id,y\n1,spam\n2,ham\n3,ham\n")
    assert run("t.csv", "p.csv", "-l", "log_loss")[1] == lines
    assert run("t.csv", "p.csv", "-l", "bce")[2].endswith("must hold numbers, none of them NaN; log_loss takes labels as they are\n")
    Path("p.csv").write_text("id,spam\n1,0.9\n2,0.2\n3,0.5\n")
    assert run("t.csv", "p.csv", "-l", "log_loss")[1] == lines
    Path("p.csv").write_text("id,ham\n1,0.1\n2,0.8\n3,0.5\n")  # of the first class, which its name says
    assert float(run("t.csv", "p.csv", "-l", "log_loss")[1][0][2]) == pytest.approx(float(lines[0][2]))
    Path("t.csv").write_text("id,y\n1,ham\n2,ham\n3,ham\n")
    assert float(run("t.csv", "p.csv", "-l", "log_loss")[1][0][2]) == pytest.approx(-np.log([0.1, 0.8, 0.5]).mean())


def test_dense_targets(run):
    Path("t.csv").write_text("id,a,b\n1,0.5,1\n2,0,2\n")
    Path("p.csv").write_text("id,b,a\n2,1,1\n1,1,0\n")
    assert run("t.csv", "p.csv", "-l", "mse")[1][0][2] == repr((0.125 + 1.0) / 2)
    assert run("t.csv", "p.csv")[0] == 2


def test_written_alike_is_equal_and_nothing_else(run):
    Path("t.csv").write_text("id,label\n007,NA\n7,null\n")
    Path("p.csv").write_text("id,NA,null\n7,0.25,0.75\n007,0.5,0.5\n")
    assert run("t.csv", "p.csv")[1][0][2] == repr(float(-np.log([0.5, 0.75]).mean()))
    Path("p.csv").write_text("id,NA,null\n07,0.25,0.75\n0007,0.5,0.5\n")
    assert "2 ids not in t.csv, the first '07'; ids compare as written, and it has '007'\n" in run("t.csv", "p.csv")[2]


IDS = {
    "neighbours": lambda n: np.arange(n) - 5,
    "a table of places": lambda n: np.arange(n) * 7 + 13,
    "far apart": lambda n: np.arange(n) * 10**12 - 10**15,
    "near the limits": lambda n: np.concatenate([[-(2**63), 2**63 - 1], np.arange(n - 2)]),
    "text": lambda n: np.array([f"row {k:x}" for k in range(n)]),
    "one of them text": lambda n: np.array([f"0{k}" if k == 3 else str(k) for k in range(n)]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_kind_find_their_rows(run, kind, monkeypatch):
    """Read in many pieces, of which one may hold integers and the next text."""
    for module in ("truth", "prediction_files", "join_by_id"):
        monkeypatch.setattr(f"polyloss._command.{module}.ROWS", 64)
    truth, _, y, p = kaggle(300)
    ids = IDS[kind](300)
    order = np.random.default_rng(1).permutation(300)
    truth.with_columns(id=polars.Series(ids)).write_csv("solution.csv")
    polars.DataFrame({"id": ids[order], **{name: p[order, k] for k, name in enumerate(["cat", "dog", "bird", "eel"])}}).write_csv("p.csv")
    polars.read_csv("p.csv").write_parquet("p.parquet")
    polars.read_csv("p.csv", infer_schema=False).write_csv("text.tsv", separator="\t")
    status, lines, _ = run("solution.csv", "p.csv", "text.tsv", *(["p.parquet"] if "one" not in kind else []), "--target", "label")
    assert status == 0
    assert len({line[2] for line in lines}) == 1
    assert float(lines[0][2]) == pytest.approx(-np.log(p[np.arange(300), y]).mean(), rel=1e-12)
    # What is missing, stands twice or is unknown is said wherever ids are looked up.
    rows = Path("p.csv").read_text().splitlines(keepends=True)
    for text, said in (
        (rows[:-1], "1 of 300 ids are missing"),
        ([*rows, rows[5]], "stands again in data row 301"),
        ([*rows, "1234567," + rows[5].partition(",")[2]], "1 id not in solution.csv, the first"),
        ([*rows, rows[5].replace(rows[5].partition(",")[0], "+1")], "1 id not in solution.csv, the first '+1'"),
    ):
        Path("bad.csv").write_text("".join(text))
        status, _, err = run("solution.csv", "bad.csv", "--target", "label")
        assert status == 1
        assert said in err


def test_ids_that_are_floats(run):
    """Parquet's may be; 1.5 is no 1."""
    table = polars.read_csv("good.csv").with_columns(polars.col("id").cast(polars.Float64))
    table.write_parquet("p.parquet")
    assert run("truth.csv", "p.parquet")[1][0][2] == repr(float(SCORE))
    table.with_columns(polars.col("id") + 0.5).write_parquet("p.parquet")
    status, _, err = run("truth.csv", "p.parquet")
    assert status == 1
    assert "p.parquet: 3 ids not in truth.csv, the first 2.5" in err


def test_losses_of_classes(run):
    p = np.array([[0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    y = np.array([1, 2, 0])
    _, lines, _ = run("truth.csv", "good.csv", "-l", "log_loss", "-l", "cce", "-l", "scce", "-l", "categorical_hinge")
    found = {line[1]: float(line[2]) for line in lines}
    assert found["log_loss"] == pytest.approx(SCORE)
    assert found["categorical_crossentropy"] == pytest.approx(SCORE, rel=1e-6)
    assert found["sparse_categorical_crossentropy"] == pytest.approx(SCORE, rel=1e-6)
    assert found["categorical_hinge"] == pytest.approx(pl.categorical_hinge(np.eye(3)[y], p).mean())


def test_probabilities_are_no_logits(run):
    """They are scored as told, and it is said."""
    assert run("truth.csv", "good.csv", "-l", "log-loss")[2] == ""
    status, _, err = run("truth.csv", "good.csv", "-l", "softmax_loss")
    assert (status, err) == (
        0,
        "polyloss score: warning: good.csv: every row adds up to 1: softmax_loss takes logits, and these look like probabilities\n",
    )
    assert "poly1_crossentropy takes logits, and these look like probabilities" in run("truth.csv", "good.csv", "-l", "poly1")[2]
    assert "these look like probabilities" in run("truth.csv", "good.csv", "-l", "scce:from_logits=True")[2]
    Path("z.csv").write_text(GOOD.replace("0.7", "7"))
    assert run("truth.csv", "z.csv", "-l", "softmax_loss")[2] == ""


def test_rows_of_arrays_that_do_not_add_up_to_1(run, monkeypatch):
    """The worst of all parts is named, by its place in the file; by how much rows may be off is a matter of the dtype."""
    monkeypatch.setattr("polyloss._command.arrays.SLAB", 200)
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, (40, 3)), rng.dirichlet(np.ones(4), (40, 3))
    np.save("y.npy", y), np.save("p.npy", p), np.save("z.npy", np.log(p)), np.save("single.npy", p.astype(np.float32))
    np.save("flat.npy", p[:, 0]), np.save("y0.npy", y[:, 0])
    p[31, 1] *= 0.9
    p[5] *= 0.99
    np.save("off.npy", p), np.save("off0.npy", p[:, 1]), np.save("half.npy", p[:30].astype(np.float16)), np.save("yhalf.npy", y[:30])
    for loss, done in (("scce", "each row is divided by its sum"), ("brier", "brier takes them as they are")):
        assert run("y.npy", "p.npy", "single.npy", "-l", loss)[2] == ""
        assert run("yhalf.npy", "half.npy", "-l", loss)[2] == ""  # whose own rounding is of that size
        warning = f"probabilities at [31, 1] add up to 1 within 0.1 only: {done}"
        assert run("y.npy", "off.npy", "-l", loss)[2] == f"polyloss score: warning: off.npy: {warning}\n"
        assert in_json(run, "y.npy", "off.npy", "-l", loss, "-q")["scores"][0]["warnings"] == [warning]
    assert run("y0.npy", "flat.npy", "-l", "log_loss")[2] == ""
    warning = "[31] add up to 1 within 0.1 only: log_loss takes them as they are; -l log_loss:rescale=True divides rows by their sums\n"
    assert run("y0.npy", "off0.npy", "-l", "log_loss")[2].endswith(warning)
    assert "[31] add up to 1 within 0.1 only: each row is divided" in run("y0.npy", "off0.npy", "-l", "log_loss:rescale=True")[2]
    assert run("y.npy", "z.npy", "-l", "softmax_loss:axis=-1", "-l", "poly1")[2] == ""
    for loss in ("softmax_loss:axis=-1", "poly1"):
        assert "these look like probabilities" in run("y.npy", "p.npy", "-l", loss)[2]
        assert run("y.npy", "off.npy", "-l", loss)[2] == ""


def test_numbers_that_a_loss_does_not_take(run, monkeypatch):
    """Probabilities outside [0, 1], targets of the hinges that are none, in tables and arrays."""
    monkeypatch.setattr("polyloss._command.arrays.SLAB", 100)
    y, p = np.arange(30) % 3, np.full((30, 3), 1 / 3)
    p[17, 2] = 1.25
    np.save("y.npy", y), np.save("p.npy", p), np.save("hot.npy", np.eye(3)[y])
    polars.DataFrame({"id": range(30), "label": np.array(["a", "b", "c"])[y]}).write_csv("t.csv")
    polars.DataFrame({"id": range(30), **dict(zip("abc", p.T, strict=True))}).write_csv("p.csv")
    for loss in [name for name in pl.names() if name == "log_loss" or LOSSES[name].takes in ("shares", "probabilities", "probability")]:
        truth = "hot.npy" if loss != "log_loss" and LOSSES[loss].targets == "dense" else "y.npy"
        said = "polyloss score: p.npy: [17, 2] is 1.25, but probabilities lie in [0, 1]\n"
        assert run(truth, "p.npy", "-l", loss) == (1, [], said)
        said = "polyloss score: p.csv: column 'c' at id 17 is 1.25, but probabilities lie in [0, 1]\n"
        assert run("t.csv", "p.csv", "-l", loss) == (1, [], said)
    t = np.array([1.0, 0, 1, 25, 1])
    np.save("t.npy", t), np.save("q.npy", t / 50)
    Path("t.csv").write_text("".join(["id,y\n", *(f"{k},{v}\n" for k, v in enumerate(t))]))
    Path("q.csv").write_text("".join(["id,q\n", *(f"{k},{v / 50}\n" for k, v in enumerate(t))]))
    for loss, rule in (
        *((name, f"targets of {name} are 0 and 1 or -1 and 1") for name in ("hinge", "squared_hinge", "exponential", "logistic")),
        ("hinge:labels=01", "targets of hinge are 0 and 1"),
        ("bce", "targets of binary_crossentropy lie in [0, 1]"),
    ):
        assert run("t.npy", "q.npy", "-l", loss) == (1, [], f"polyloss score: t.npy: [3] is 25.0, but {rule}\n")
        assert run("t.csv", "q.csv", "-l", loss) == (1, [], f"polyloss score: t.csv: column 'y' at id 3 is 25.0, but {rule}\n")
    np.save("t.npy", t[:3]), np.save("q.npy", t[:3] / 50)
    assert run("t.npy", "q.npy", "-l", "hinge")[0] == 0
    assert run("t.npy", "q.npy", "-l", "exponential:labels=01")[1][0][2] == run("t.npy", "q.npy", "-l", "exponential")[1][0][2]
    np.save("t.npy", np.array([1.0, 0, -1])), np.save("q.npy", t[:3] / 50)
    assert "t.npy: holds 0 as well as numbers other than 0 and 1" in run("t.npy", "q.npy", "-l", "hinge")[2]


def test_nan_in_arrays_is_a_score_of_nan(run, monkeypatch):
    """Of which the first place in the whole file is named, in whatever parts it is read."""
    monkeypatch.setattr("polyloss._command.arrays.SLAB", 16)
    y, p = np.array([0, 1, 1]), np.full((3, 2), 0.5)
    p[2, 0] = np.nan
    np.save("y.npy", y), np.save("p.npy", p), np.save("one.npy", p[:, 0]), np.save("t.npy", p[:, ::-1])
    np.save("inf.npy", np.array([[0, 1], [2, 3], [np.inf, np.inf]], np.float32))
    np.save("far.npy", np.array([[0, 0], [3e38, 0], [3e38, 0]], np.float32)), np.save("away.npy", np.float32([[0, 0], [-3e38, 0], [0, 0]]))
    maps, logits = np.zeros((3, 4, 5), int), np.zeros((3, 2, 4, 5))
    maps[0], logits[0], logits[2, 1, 3, 2] = 9, np.nan, np.nan
    np.save("maps.npy", maps), np.save("deep.npy", logits)
    for truth, file, loss, place in (
        ("y.npy", "p.npy", "log_loss", "[2, 0] is nan"),
        ("y.npy", "p.npy", "scce", "[2, 0] is nan"),
        ("y.npy", "one.npy", "log_loss", "[2] is nan"),
        ("y.npy", "one.npy", "bce", "[2] is nan"),
        ("y.npy", "inf.npy", "softmax_loss", "[2, 0] is inf"),
        ("t.npy", "away.npy", "mse", "[2, 1] of t.npy is nan"),
        ("maps.npy", "deep.npy", "softmax_loss:ignore_label=9", "[2, 1, 3, 2] is nan"),
        ("away.npy", "far.npy", "cosine:axis=-1", ""),
    ):
        score = in_json(run, truth, file, "-l", loss, status=0 if not place else 1)
        name = score["scores"][0]["loss"]
        assert (score["scores"][0]["score"] is None) == bool(place)
        said = f"{file}: the {name} is NaN: {place}"
        assert run(truth, file, "-l", loss)[2] == (f"polyloss score: {said}\n" if place else "")
        assert score.get("errors", []) == ([{"predictions": file, "error": said}] if place else [])


def test_signature(run):
    """What the number depends on beside the data."""
    np.save("y.npy", np.array([[0, 255], [1, 254], [1, 0]])), np.save("z.npy", np.zeros((3, 2, 3), np.float32))
    version = f"|polyloss:{pl.__version__}"
    given = "y.npy", "z.npy", "-l", "softmax_loss", "--ignore-label", 255, "--ignore-label", 254, "--axis", 2
    assert in_json(run, *given)["signature"] == "softmax_loss|kaggle:no|ignored:255+254|axis:2" + version
    np.save("y.npy", np.array([0, 1, 1])), np.save("p.npy", np.full((3, 2), 0.5, np.float32)), np.save("q.npy", np.full((3, 2), 0.5))
    assert in_json(run, "y.npy", "p.npy", "-l", "log_loss")["signature"] == "log_loss|kaggle:no|clip:1.2e-07|classes:2" + version
    assert in_json(run, "y.npy", "p.npy", "-l", "log_loss:epsilon=0.01")["signature"].split("|")[2] == "clip:0.01"
    np.save("one.npy", np.full(3, 0.5))
    assert in_json(run, "y.npy", "one.npy", "-l", "log_loss")["signature"].split("|")[3:5] == ["classes:2", "positive:1"]
    assert "positive" not in in_json(run, "y.npy", "one.npy", "-l", "mse")["signature"]
    Path("two.csv").write_text("id,label\n1,spam\n2,ham\n")
    for column, positive in (("p", "spam"), ("ham", "ham")):
        Path("one.csv").write_text(f"id,{column}\n1,0.5\n2,0.25\n")
        assert in_json(run, "two.csv", "one.csv", "-l", "log_loss")["signature"].split("|")[3:5] == ["classes:2", f"positive:{positive}"]
        Path("both.csv").write_text(f"id,label,{column}\n1,spam,0.5\n2,ham,0.25\n")
        assert f"|positive:{positive}|" in in_json(run, "both.csv", "both.csv", "--target", "label", "-l", "log_loss")["signature"]
    Path("truth.csv").write_text("id,label,w\n1,cat,1\n2,dog,2\n3,bird,1\n")
    found = in_json(run, "truth.csv", "good.csv", "--weight", "w", "--kaggle")["signature"]
    assert found == "log_loss|kaggle:yes|clip:1e-15|classes:3|weight:w" + version


def test_signatures_that_differ(run, monkeypatch, capsys):
    """Each score has its own where what decides the numbers differs between the files, and that of all says so."""
    np.save("y.npy", np.array([0, 1, 1])), np.save("p.npy", np.full((3, 2), 0.5, np.float32)), np.save("q.npy", np.full((3, 2), 0.5))
    Path("two.csv").write_text("id,label\n1,spam\n2,ham\n")
    Path("spam.csv").write_text("id,p\n1,0.5\n2,0.25\n")
    Path("ham.csv").write_text("id,ham\n1,0.5\n2,0.25\n")
    Path("s.csv").write_text("id,label,p\n1,spam,0.5\n2,ham,0.25\n")
    Path("h.csv").write_text("id,label,ham\n1,spam,0.5\n2,ham,0.25\n")
    for given, part, own in (
        (("y.npy", "p.npy", "q.npy"), "clip", ["1.2e-07", "2.2e-16"]),
        (("two.csv", "spam.csv", "ham.csv"), "positive", ["spam", "ham"]),
        (("?.csv", "?.csv", "--target", "label"), "positive", ["ham", "spam"]),
    ):
        found = in_json(run, *given, "-l", "log_loss")
        assert f"|{part}:differs|" in found["signature"]
        assert [f"|{part}:{value}|" in row["signature"] for row, value in zip(found["scores"], own, strict=True)] == [True, True]
        for row, value in zip(found["scores"], own, strict=True):
            assert row["signature"].replace(f"{part}:{value}", f"{part}:differs") == found["signature"]
    assert "signature" not in in_json(run, "two.csv", "ham.csv", "ham.csv", "-l", "log_loss")["scores"][0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["score", "two.csv", "spam.csv", "ham.csv", "-l", "log_loss"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "log_loss|" in line]
    assert ["spam.csv: log_loss|" in lines[0], "ham.csv: log_loss|" in lines[1], len(lines)] == [True, True, 2]


def test_differences_are_those_of_the_scores(run):
    """With ignored labels, weights of classes and another normalization, too."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (20, 4))
    y[:5, 1:] = 255
    np.save("y.npy", y)
    for name in "ab":
        np.save(f"{name}.npy", rng.standard_normal((20, 3, 4)))
    for loss in ("softmax_loss", "softmax_loss:class_weight=[1,5,2]", "softmax_loss:normalization=batch_size"):
        first, second = in_json(run, "y.npy", "a.npy", "b.npy", "-l", loss, "--ignore-label", 255, "--paired")["scores"]
        assert second["difference"] == pytest.approx(second["score"] - first["score"], rel=1e-12)
    Path("other.csv").write_text("id,bird,cat,dog\n2,1,2,7\n1,1,2,1\n3,6,2,2\n")
    Path("truth.csv").write_text("id,label,w\n1,cat,1\n2,dog,2\n3,bird,1\n")
    given = "truth.csv", "good.csv", "other.csv", "-l", "softmax_loss:class_weight=[1,5,2]", "--weight", "w", "--paired", "-q"
    first, second = in_json(run, *given)["scores"]
    assert second["difference"] == pytest.approx(second["score"] - first["score"], rel=1e-12)


def test_hints_for_arrays(run):
    """One number for each sample where classes are asked for; true and false where there are many classes."""
    np.save("y.npy", np.array([0, 1, 1])), np.save("p.npy", np.array([0.25, 0.5, 0.75])), np.save("z.npy", np.zeros((3, 10)))
    np.save("bool.npy", np.array([True, False, True])), np.save("two.npy", np.zeros((3, 2)))
    for loss, hint in (
        ("brier", "; of one probability for each sample, use -l mse"),
        ("scce", "; of one probability for each sample, use -l log_loss"),
        ("softmax_loss", "; of one logit for each sample, use -l bce:from_logits=True"),
        ("kld", ""),
    ):
        status, _, err = run("y.npy", "p.npy", "-l", loss)
        assert status == 1
        assert err.endswith(f"but must have one of samples before it{hint}\n")
    assert run("bool.npy", "z.npy", "-l", "softmax_loss")[2] == (
        "polyloss score: warning: z.npy: bool.npy holds true and false, which are taken for the labels 1 and 0 of 10 classes\n"
    )
    for file, loss in (("two.npy", "softmax_loss"), ("p.npy", "bce"), ("p.npy", "log_loss")):
        assert run("bool.npy", file, "-l", loss)[::2] == (0, "")


def test_one_bad_file_among_compared_arrays(run):
    y, z = np.array([0, 1]), np.zeros((2, 2))
    np.save("y.npy", y), np.save("a.npy", z), np.save("b.npy", z[:1]), np.save("c.npy", z + 2 * np.eye(2))
    given = "y.npy", "a.npy", "b.npy", "c.npy", "-l", "softmax_loss", "--paired"
    found = in_json(run, *given, status=1)["scores"]
    assert [(score["predictions"], "difference" in score) for score in found] == [("a.npy", False), ("c.npy", True)]
    assert run(*given)[2] == "polyloss score: b.npy: has 1 sample, but y.npy has 2\n"
    given = "y.npy", "b.npy", "a.npy", "-l", "softmax_loss", "--paired"
    assert "b.npy: nothing can be compared with it" in run(*given)[2]
    (found,) = in_json(run, *given, status=1)["scores"]
    assert (found["predictions"], "difference" in found) == ("a.npy", False)


def test_arrays_are_read_once_where_one_of_them_is_bad(run, monkeypatch):
    """A number that makes one bad is met in the middle; the others are compared all the same, or scored alone if it is the first."""
    monkeypatch.setattr("polyloss._command.arrays.SLAB", 160)
    read, rng = [], np.random.default_rng(0)
    own = arrays.read
    monkeypatch.setattr(arrays, "read", lambda path, *rows: read.append((path, *rows)) or own(path, *rows))
    y, p = rng.integers(0, 2, 50), rng.dirichlet([1, 1], (3, 50))
    np.save("y.npy", y)
    for name, one in zip("abc", p, strict=True):
        np.save(f"{name}.npy", one)
    want = run("y.npy", "a.npy", "c.npy", "-l", "log_loss")[1]
    p[1, 37] = 2
    np.save("b.npy", p[1])
    for files, compared in ((["a.npy", "b.npy", "c.npy"], [False, True]), (["b.npy", "a.npy", "c.npy"], [False, False])):
        read.clear()
        given = "y.npy", *files, "-l", "log_loss", "--paired"
        status, lines, err = run(*given)
        assert (status, lines, len(read)) == (1, want, len(set(read)))
        assert err.splitlines()[0] == "polyloss score: b.npy: [37, 0] is 2.0, but probabilities lie in [0, 1]"
        found = in_json(run, *given, status=1)
        assert ["difference" in score for score in found["scores"]] == compared
        assert [error["predictions"] for error in found["errors"]] == ["b.npy"] * (1 if any(compared) else 2)
    read.clear()
    run("y.npy", "b.npy", "-l", "log_loss")
    assert max(stop for _, _, stop in read) == 40  # what is bad is not read on


def test_the_loss_that_refuses_numbers_is_named(run):
    np.save("y.npy", [0, 1]), np.save("z.npy", [[-2.0, 1.0], [1.0, 0.0]])
    err = run("y.npy", "z.npy", "-l", "softmax_loss", "-l", "log_loss")[2]
    assert err == "polyloss score: z.npy: [0, 0] is -2.0, but probabilities lie in [0, 1], and log_loss takes nothing else\n"


def test_a_regression_table_with_another_column(run):
    Path("t.csv").write_text("id,price\n1,2.5\n2,4\n")
    Path("p.csv").write_text("id,predicted,fold\n1,2.5,0\n2,4,1\n")
    status, _, err = run("t.csv", "p.csv", "-l", "mse")
    assert status == 1
    assert "it has 'predicted', 'fold'; of numbers as targets, mean_squared_error takes one column of predictions: name it" in err
    assert run("t.csv", "p.csv", "-l", "mse", "--prediction", "predicted") == (0, [["p.csv", "mean_squared_error", "0.0"]], "")
    Path("both.csv").write_text("id,price,fold,predicted\n1,2,0,3\n2,4,1,4\n")
    given = "both.csv", "both.csv", "--target", "price", "-l", "mse", "--prediction"
    assert run(*given, "predicted")[1] == [["both.csv", "mean_squared_error", "0.5"]]
    status, _, err = run(*given, "predict")
    assert status == 2
    assert "--prediction is 'predict', but both.csv has no such column; did you mean 'predicted'?" in err
    Path("q.csv").write_text("id,guess\n1,2\n2,4\n")
    status, lines, err = run("t.csv", "p.csv", "q.csv", "-l", "mse", "--prediction", "predicted")
    assert (status, [line[0] for line in lines]) == (1, ["p.csv"])
    assert err == "polyloss score: q.csv: no column 'predicted', which --prediction names; it has 'id', 'guess'\n"
    Path("q.csv").write_text("id,price,low,high\n1,2.5,2,3\n2,4,3,5\n")  # one named as the target, too
    assert "name it with --prediction" in run("t.csv", "q.csv", "-l", "mse")[2]
    assert run("t.csv", "q.csv", "-l", "mse", "--prediction", "price")[1] == [["q.csv", "mean_squared_error", "0.0"]]
    Path("c.csv").write_text("id,bird,fold,cat,dog\n2,0.1,0,0.2,0.7\n1,0.1,1,0.8,0.1\n3,0.6,2,0.2,0.2\n")
    named = [word for name in ("dog", "cat", "bird") for word in ("--prediction", name)]
    assert run("truth.csv", "c.csv", *named) == (0, [["c.csv", "log_loss", repr(float(SCORE))]], "")


def test_a_column_that_is_hardly_a_class(run):
    """Where labels are numbers, a column of another name is warned of; a number may be a class that the truth lacks."""
    Path("t.csv").write_text("id,digit\n1,0\n2,1\n")
    Path("p.csv").write_text("id,0,1,2,fold\n1,.7,.2,.1,0\n2,.3,.6,.1,0\n")
    status, lines, err = run("t.csv", "p.csv")
    assert (status, len(lines)) == (0, 1)
    assert err == "polyloss score: warning: p.csv: columns that count as classes, and are labels in no row of t.csv: 'fold'\n"
    Path("p.csv").write_text("id,0,1,2\n1,.7,.2,.1\n2,.3,.6,.1\n")
    assert run("t.csv", "p.csv")[2] == ""


def test_the_first_of_compared_tables_is_bad(run):
    """The others are scored all the same."""
    Path("bad.csv").write_text(GOOD.replace("0.7", "x"))
    given = "truth.csv", "bad.csv", "good.csv", "good.csv", "--paired"
    status, lines, err = run(*given)
    assert (status, [file for file, *_ in lines]) == (1, ["good.csv"] * 2)
    assert "bad.csv: nothing can be compared with it" in err
    assert not any("difference" in score for score in in_json(run, *given, status=1)["scores"])


def test_a_score_for_each_class(run):
    for options in (("--group-by", "label"), ("--group-by", "label", "--target", "label")):
        rows = in_json(run, "truth.csv", "good.csv", *options)["scores"]
        assert [(row["group"], row["score"]) for row in rows] == [
            *((name, float(-np.log(p))) for name, p in (("bird", 0.6), ("cat", 0.8), ("dog", 0.7))),
            (None, pytest.approx(SCORE)),
        ]
    Path("truth.csv").write_text(TRUTH.replace("cat", "10").replace("dog", "9").replace("bird", "-1"))
    Path("p.csv").write_text(GOOD.replace("cat", "10").replace("dog", "9").replace("bird", "-1"))
    assert [line[2] for line in run("truth.csv", "p.csv", "--group-by", "label")[1]] == ["-1", "9", "10", ""]


def test_what_kaggle_asks_for(run):
    Path("t.csv").write_text("id,y,Usage\n1,2,Public\n2,9,Ignored\n")
    Path("p.csv").write_text("id,y\n1,3\n2,4\n")
    assert run("t.csv", "p.csv", "-l", "mse", "--kaggle")[1] == [["p.csv", "mean_squared_error", "1.0"]]
    Path("t.csv").write_text("id,y\n1,2\n2,9\n")
    status, _, err = run("t.csv", "p.csv", "-l", "mse", "--kaggle")
    assert status == 2
    assert "--kaggle changes nothing here" in err


def test_names_with_quotation_marks_and_commas(run):
    """As text writes them, and as Parquet has them."""
    names = ['q"t', 'six" pipe', "a,b", '""', "plain"]
    y = np.arange(20) % 5
    p = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    given = pd.DataFrame({"id": range(20), **dict(zip(names, p.T, strict=True))})
    pd.DataFrame({"id": range(20), 'la"bel': np.array(names)[y]}).to_csv("t.csv", index=False)
    given.to_csv("p.csv", index=False), given.to_csv("p.tsv", index=False, sep="\t")
    polars.DataFrame(given.to_dict("list")).write_parquet("p.parquet")
    _, lines, _ = run("t.csv", "p.csv", "p.tsv", "p.parquet", "--target", 'la"bel')
    assert [float(line[2]) for line in lines] == pytest.approx([-np.log(p[np.arange(20), y]).mean()] * 3, rel=1e-14)


def test_text_as_programs_leave_it(run):
    """Compressed, with a byte-order mark, with blank lines, with other line ends, in quotes, without the last line's end."""
    want = ["log_loss", repr(float(SCORE))]
    Path("p.csv.zst").write_bytes(ZSTD)
    Path("p.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    Path("mark.csv").write_text("\ufeff" + GOOD)
    Path("blank.csv").write_text(GOOD.replace("\n1", "\n\n1") + "\n\n\n")
    Path("ends.csv").write_bytes(GOOD.replace("\n", "\r\n").encode())
    Path("quotes.csv").write_text(GOOD.replace("bird", '"bird"').replace("0.7", '"0.7"'))
    Path("none.csv").write_text(GOOD.rstrip())
    files = ["p.csv.zst", "p.csv.gz", "mark.csv", "blank.csv", "ends.csv", "quotes.csv", "none.csv"]
    assert run("truth.csv", *files) == (0, [[file, *want] for file in files], "")
    Path("other.csv").write_text("\ufeff" + TRUTH.replace("\n", "\r\n") + "\r\n\r\n")
    assert run("other.csv", "good.csv") == (0, [["good.csv", *want]], "")


def test_what_is_read_ahead_is_taken_once(run):
    """The first file is parsed while the truth is read: it may stand again, be bad, or have ids that need another way."""
    assert [line[2] for line in run("truth.csv", "good.csv", "good.csv")[1]] == [repr(float(SCORE))] * 2
    assert run("truth.csv", "none.csv", "good.csv")[1:] == (
        [["good.csv", "log_loss", repr(float(SCORE))]],
        "polyloss score: none.csv: no such file\n",
    )
    Path("far.csv").write_text(TRUTH.replace("3,", "3000000000,"))
    Path("p.csv").write_text(GOOD.replace("3,", "3000000000,"))
    assert run("far.csv", "p.csv", "p.csv")[1] == [["p.csv", "log_loss", repr(float(SCORE))]] * 2
    assert run("far.csv", "good.csv")[2].endswith("1 id not in far.csv, the first 3; --extra-ids ignore leaves them out\n")


def test_ids_in_no_order_are_told_apart(run):
    """Among the largest and the least integers, too, whose differences are no integers of 64 bits."""
    ids = [5, 2**63 - 1, -(2**63), -(2**62), 0, 5]
    Path("t.csv").write_text("id,label\n" + "".join(f"{k},cat\n" for k in ids))
    assert run("t.csv", "good.csv")[2] == "polyloss score: t.csv: id 5 of column 'id' stands again in data row 6, but must stand once\n"


def test_an_arrow_stream(run):
    polars.read_csv("good.csv").write_ipc_stream("good.arrow")
    assert run("truth.csv", "good.arrow", "-q")[1] == [["good.arrow", "log_loss", repr(float(SCORE))]]


def test_a_narrow_terminal_cuts_no_digits(monkeypatch, capsys):
    """The table is as wide as it must be."""
    monkeypatch.setenv("COLUMNS", "40")
    from polyloss._command import report, scoring

    score = scoring.Score("a/long/path/of/predictions.csv", "log_loss", "Private", 0.123456, 0.0123, 12.0, 12, [])
    basis = scoring.Basis({2.2e-16}, 2, {"spam"})
    settings = scoring.Settings([scoring.Loss.of("log_loss")], by_group=True, bases={score.predictions: basis})
    report.as_table([score], settings, "0.1.0")
    out = capsys.readouterr().out
    assert "0.123456" in out
    assert "|positive:spam|polyloss:0.1.0" in out


def test_kaggle_divides_rows(run):
    """Entries above 1, too."""
    Path("p.csv").write_text(GOOD.replace("0.7", "1.4"))
    status, lines, err = run("truth.csv", "p.csv", "--kaggle")
    assert (status, lines[0][1]) == (0, "log_loss")
    assert float(lines[0][2]) == pytest.approx(-np.log([0.8, 1.4 / 1.7, 0.6]).mean())
    assert err == "polyloss score: warning: p.csv: probabilities of id 2 add up to 1 within 0.7 only: each row is divided by its sum\n"


def test_json(run):
    found = in_json(run, "truth.csv", "good.csv")
    assert set(found) == {"polyloss", "truth", "seconds", "signature", "scores"}
    assert found["signature"] == f"log_loss|kaggle:no|clip:2.2e-16|classes:3|polyloss:{pl.__version__}"
    assert set(found["scores"][0]) == {"predictions", "loss", "group", "score", "stderr", "weight", "count", "warnings"}
    np.save("y.npy", np.zeros(3, int))
    np.save("z.npy", np.full((3, 2), np.nan))
    assert in_json(run, "y.npy", "z.npy", "-l", "softmax_loss", status=1)["scores"][0]["score"] is None


def test_json_of_an_infinite_score(run):
    """It is told from NaN, in a way that other readers take."""
    np.save("y.npy", np.zeros(3)), np.save("z.npy", np.array([0.0, 1.0, np.inf])), np.save("first.npy", np.zeros(3))
    status, lines, _ = run("y.npy", "first.npy", "z.npy", "-l", "mse", "--paired", "--fail-above", "1e300", "--json")
    found = json.loads("".join("\t".join(line) for line in lines), parse_constant=pytest.fail)["scores"][1]
    assert status == 3
    assert (float(found["score"]), found["stderr"], float(found["difference"])) == (np.inf, None, np.inf)
    assert found["score"] == "Infinity"


def test_json_has_the_bad_files(run):
    """Under a key that is there if there are any; it is one document even if nothing is scored."""
    none = "none.csv: no such file"
    found = in_json(run, "truth.csv", "none.csv", "good.csv", status=1)
    assert [row["predictions"] for row in found["scores"]] == ["good.csv"]
    assert found["errors"] == [{"predictions": "none.csv", "error": none}]
    found = in_json(run, "none.csv", "good.csv", status=1)
    assert (found["scores"], found["signature"], found["errors"]) == ([], None, [{"predictions": None, "error": none}])
    Path("truth.csv").write_text(TRUTH.replace("dog", ""))
    given = "truth.csv", "good.csv", "good.csv"
    said = "truth.csv: column 'label' has no label at id 2, but every row needs one"
    assert run(*given) == (1, [], f"polyloss score: {said}\n")  # once
    assert in_json(run, *given, status=1)["errors"] == [{"predictions": "good.csv", "error": said}] * 2


def test_what_is_piped_in(monkeypatch):
    """Of every kind that files may have, of which the beginning tells the format; as truth, as predictions, as both."""
    rng = np.random.default_rng(0)
    np.save("y.npy", np.array([0, 2, 1])), np.save("z.npy", rng.standard_normal((3, 3)).astype(np.float32))
    np.savez("both.npz", y=np.load("y.npy"), z=np.load("z.npy"))
    with h5py.File("both.h5", "w") as file:
        file["y"], file["z"] = np.load("y.npy"), np.load("z.npy")
    table = polars.read_csv("good.csv")
    table.write_csv("good.tsv", separator="\t"), table.write_parquet("good.parquet"), table.write_ipc("good.arrow")
    table.write_ipc_stream("stream.arrow")
    for file in ("good.csv", "good.tsv"):
        Path(f"{file}.gz").write_bytes(gzip.compress(Path(file).read_bytes()))
    Path("good.csv.zst").write_bytes(ZSTD)
    polars.read_csv("truth.csv").join(table, on="id").write_parquet("both.parquet")
    Path("bad.csv").write_text(GOOD.replace("0.7", "high")), Path("empty.csv").touch(), Path("binary.bin").write_bytes(pickle.dumps(SCORE))

    made, own = [], tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **words: made.append(own(**words)) or made[-1])

    def piped(file, *words):
        with open(file, "rb") as stream, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.read())))
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["score", *words])
        return status, out.getvalue().split("\t")[-1], err.getvalue()

    Path("cut.zst").write_bytes(ZSTD[:-8]), Path("cut.gz").write_bytes(gzip.compress(GOOD.encode())[:-15])
    Path("good.tsv.zst").write_bytes(zstd(Path("good.tsv").read_text())), Path("blank.tsv").write_text("\n" + Path("good.tsv").read_text())
    tables = ["good.csv", "good.tsv", "good.parquet", "good.arrow", "stream.arrow", "blank.tsv"]
    tables += [f"good.{kind}.{packed}" for kind in ("csv", "tsv") for packed in ("gz", "zst")]
    for file in tables:
        assert piped(file, "truth.csv", "-") == (0, f"{float(SCORE)!r}\n", ""), file
    assert piped("truth.csv", "-", "good.csv")[1] == f"{float(SCORE)!r}\n"
    assert piped("both.parquet", "-", "-", "--target", "label")[1] == f"{float(SCORE)!r}\n"
    want = piped("z.npy", "y.npy", "z.npy", "-l", "softmax_loss")
    assert want[0] == 0
    assert piped("z.npy", "y.npy", "-", "-l", "softmax_loss") == want
    for file in ("both.npz", "both.h5"):
        assert piped(file, "-l", "softmax_loss", "--", "-::y", "-::z") == want
        assert piped(file, "-::y", "-::z", "-l", "softmax_loss") == want
        assert piped(file, "-::y", "/dev/stdin::z", "-l", "softmax_loss") == want  # one stream by two names
        assert piped(file, "y.npy", "-l", "softmax_loss", "-::z") == want
    for file, said in (
        ("bad.csv", "-: column 'dog' is 'high' in data row 1 (id 2), but must hold a number"),
        ("empty.csv", "-: the file is empty"),
        ("cut.zst", "-: cannot be read: "),
        ("cut.gz", "-: cannot be read after data row 2: it is cut short"),
        ("binary.bin", "-: holds binary data, but must be text, Parquet, Arrow or an array"),
        ("both.npz", "-: holds 2 arrays: name one, as -::NAME; it has 'y', 'z'"),
    ):
        truth = "y.npy" if "npz" in file else "truth.csv"
        status, _, err = piped(file, truth, "-", *(["-l", "softmax_loss"] if "npz" in file else []))
        assert (status, err.startswith(f"polyloss score: {said}"), err.count("\n")) == (1, True, 1), (file, err)
    assert "workers cannot read -" in piped("z.npy", "y.npy", "-", "-l", "softmax_loss", "--dask", "tcp://127.0.0.1:9")[2]
    assert made
    assert not any(map(os.path.exists, made))


def test_a_closed_stream_is_one_bad_file(run, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    found = in_json(run, "truth.csv", "-", "good.csv", status=1)
    assert [score["predictions"] for score in found["scores"]] == ["good.csv"]
    assert found["errors"] == [{"predictions": "-", "error": "-: standard input is closed"}]
    assert in_json(run, "-", "good.csv", status=1)["errors"] == [{"predictions": None, "error": "-: standard input is closed"}]
    status, _, err = run("truth.csv", "good.csv", "--prediction", "cat", "--prediction", "cat")
    assert status == 2
    assert "--prediction names the same column twice" in err


class Failing(io.RawIOBase):
    """A stream of which a block can be read, then an error, then what is a good file by itself."""

    def __init__(self, rest):
        self.blocks = [b"id,cat\n" + bytes(1 << 20), None, rest]

    def readable(self):
        return True

    def read(self, size):
        block = self.blocks.pop(0) if self.blocks else b""
        if block is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return block


def test_a_stream_that_cannot_be_read_or_kept(run, monkeypatch):
    """It is said once, by what failed; what is left of the stream is not taken for the file."""
    np.save("y.npy", np.array([0, 2, 1])), np.save("z.npy", np.eye(3))
    made = tempfile.mkdtemp

    def full(**words):
        folder = made(**words)
        for ending in ("text", "npy"):
            os.symlink("/dev/full", f"{folder}/kept.{ending}")
        return folder

    calls = [(GOOD.encode(), call) for call in (["truth.csv", "-"], ["-", "good.csv"], ["-", "-", "--target", "cat"])]
    array = ["-l", "softmax_loss", "--axis", 1]
    calls += [(Path("z.npy").read_bytes(), call) for call in (["y.npy", "-", *array], ["-", "z.npy", *array], ["-", "-", *array])]
    for whole, call in calls:
        monkeypatch.setattr(sys, "stdin", Mock(buffer=Failing(whole)))
        assert run(*call) == (1, [], "polyloss score: -: cannot be read: Input/output error\n"), call
        if Path("/dev/full").exists():
            with monkeypatch.context() as patch:
                patch.setattr(tempfile, "mkdtemp", full)
                patch.setattr(sys, "stdin", Mock(buffer=io.BytesIO(whole + bytes(1 << 20))))
                said = f"-: cannot be kept in {tempfile.gettempdir()}: No space left on device"
                assert run(*call) == (1, [], f"polyloss score: {said}\n"), call
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkdtemp", Mock(side_effect=FileNotFoundError(errno.ENOENT, "No usable temporary directory")))
            patch.setattr(sys, "stdin", Mock(buffer=io.BytesIO(whole)))
            assert run(*call) == (1, [], "polyloss score: -: cannot be kept: No usable temporary directory\n"), call


def test_a_fault_of_the_program_is_no_broken_file(run, monkeypatch):
    np.save("y.npy", np.array([0, 2, 1])), np.save("z.npy", np.eye(3))
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "np", SimpleNamespace())
        with pytest.raises(AttributeError):
            run("y.npy", "z.npy", "-l", "softmax_loss")
    monkeypatch.setattr(np, "load", lambda *given, **words: [].lost)  # an error that another package has in its own lines
    said = "y.npy: cannot be read: 'list' object has no attribute 'lost'"
    assert run("y.npy", "z.npy", "-l", "softmax_loss")[::2] == (1, f"polyloss score: {said}\n")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="a folder of Linux")
def test_a_folder_of_devices_may_hold_files():
    from polyloss._command.streams import is_stream

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert not is_stream(folder)
        Path(folder, "p.csv").write_text(GOOD)
        assert not is_stream(f"{folder}/p.csv")
    assert all(map(is_stream, ("-", "/dev/stdin", "/dev/fd/0")))


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="a device of Unix")
def test_the_names_of_streams(here):
    """The system's names of standard input and of pipes; one that is closed."""
    command = [sys.executable, "-m", "polyloss", "score", "truth.csv"]
    done = subprocess.run([*command, "/dev/stdin"], input=GOOD, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"/dev/stdin\tlog_loss\t{float(SCORE)!r}\n", "")
    done = subprocess.run(["sh", "-c", '"$@" - <&-', "sh", *command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "polyloss score: -: standard input is closed\n")
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=(GOOD,))
    writer.start()
    assert main(["score", "truth.csv", "pipe"]) == 0
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of Unix")
def test_a_pipe_by_two_names_is_read_once(run):
    """The second reader would find nothing."""
    os.mkfifo("pipe"), os.symlink("pipe", "other")
    done = threading.Event()

    def write():
        Path("pipe").write_text(GOOD)
        while not done.is_set():
            Path("pipe").write_text("")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert run("truth.csv", "pipe", "other") == (0, [[name, "log_loss", repr(float(SCORE))] for name in ("pipe", "other")], "")
    done.set()
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer.join()
    os.close(reader)


WRITERS = {  # of tables, by the ending of the file
    "csv": polars.DataFrame.write_csv,
    "tsv": lambda table, path: table.write_csv(path, separator="\t"),
    "csv.gz": lambda table, path: Path(path).write_bytes(gzip.compress(table.write_csv().encode())),
    "csv.zst": lambda table, path: Path(path).write_bytes(zstd(table.write_csv())),
    "parquet": polars.DataFrame.write_parquet,
    "arrow": polars.DataFrame.write_ipc,
    "ipc": polars.DataFrame.write_ipc_stream,
}


def save_h5(path, array):
    with h5py.File(path, "w") as file:
        file["z"] = array


def test_a_name_that_exists_is_no_pattern(run, monkeypatch):
    """Each name with brackets, a star or "~" stands beside a file that it would match as a pattern, or as a name of a home directory."""
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    names = [("sub[1]", "sub1"), ("run[a]/s", "runa/s"), ("what?", "whatx"), ("*", "x"), ("~/s", "home/s"), ("a::b", "a")]
    table = polars.DataFrame({"id": [2, 1, 3], "bird": [0.1, 0.1, 0.6], "cat": [0.2, 0.8, 0.2], "dog": [0.7, 0.1, 0.2]})
    other = table.with_columns(polars.lit(0.5).alias(name) for name in ("bird", "cat", "dog"))
    right, wrong = np.eye(3)[[0, 2, 1]], np.zeros((3, 3))
    y = np.array([0, 2, 1])
    np.save("y.npy", y)
    one = run("truth.csv", "good.csv", "-l", "log_loss")[1][0][2]
    for literal, beside in names:
        for name, path in ((literal, 0), (beside, 1)):
            Path(name).parent.mkdir(exist_ok=True)
            for end, write in WRITERS.items():
                write((table, other)[path], f"{Path().absolute()}/{name}.{end}")
                labels = polars.read_csv("truth.csv").with_columns(polars.col("id").cast(polars.Int64))
                write((table, other)[path].join(labels, on="id"), f"{Path().absolute()}/{name}-both.{end}")
            array = (right, wrong)[path]
            np.save(f"{name}.npy", array), np.savez(f"{name}.npz", z=array), save_h5(f"{name}.h5", array)
            zarr.open_group(Path(f"{name}.zarr"), mode="w").create_array("z", data=array)
        for end in WRITERS:
            path = f"{literal}.{end}"
            assert run("truth.csv", path) == (0, [[path, "log_loss", one]], ""), path
            assert run("truth.csv", path, "--parts") == (0, [[path, "log_loss", one]], ""), path
            both = f"{literal}-both.{end}"
            assert run(both, both, "--target", "label") == (0, [[both, "log_loss", one]], ""), both
            assert run(both, both, "--target", "label", "--parts") == (0, [[both, "log_loss", one]], ""), both
            assert run(both, "good.csv", "--target", "label")[:2] == (0, [["good.csv", "log_loss", one]]), both
        want = repr(float(pl.softmax_loss(y, right)))
        for end in ("npy", "npz::z", "h5::z", "zarr::z", "zarr/::z", "zarr"):
            path = f"{literal}.{end}"
            assert run("y.npy", path, "-l", "softmax_loss")[:2] == (0, [[path, "softmax_loss", want]]), path
    os.symlink("gone.csv", "link[1].csv"), Path("link1.csv").write_text(GOOD)
    assert run("truth.csv", "link[1].csv") == (1, [], "polyloss score: link[1].csv: no such file\n")


def test_a_name_that_is_no_file_is_a_pattern(run):
    """Of ``FILE::NAME`` the file is one."""
    np.save("y.npy", np.array([0, 2, 1]))
    for k in (2, 1):
        Path(f"sub{k}.csv").write_text(GOOD), np.savez(f"z{k}.npz", a=np.eye(3), b=np.zeros((3, 3))), Path(f"x::{k}.csv").write_text(GOOD)
    for pattern in ("sub[12].csv", "sub?.csv", "sub*.csv"):
        assert [line[0] for line in run("truth.csv", pattern)[1]] == ["sub1.csv", "sub2.csv"]
    assert [line[0] for line in run("truth.csv", "x::*.csv")[1]] == ["x::1.csv", "x::2.csv"]
    status, lines, _ = run("y.npy", "z*.npz::b", "z[1].npz::a", "-l", "softmax_loss")
    assert (status, [line[0] for line in lines]) == (0, ["z1.npz::b", "z2.npz::b", "z1.npz::a"])
    assert run("truth.csv", "lost*.csv") == (1, [], "polyloss score: lost*.csv: no such file\n")


def test_nobody_else_takes_names_for_patterns(monkeypatch):
    """On Windows click would, of all words, before the command sees them."""
    given = {}
    monkeypatch.setattr(app, "main", lambda words, **settings: given.update(settings))
    assert main([]) == 0
    assert given["windows_expand_args"] is False


# ------------------------------------------------------------------------------------------------------------------ bad files

# What is written beside the good files, the arguments, what is said of them.
BAD = {
    "empty": ({"p.csv": ""}, "p.csv: the file is empty"),
    "header only": ({"p.csv": GOOD.partition("\n")[0] + "\n"}, "p.csv: no rows below the header"),
    "missing id column": (
        {"p.csv": GOOD.replace("id,", "Id,")},
        "p.csv: no column 'id', by which it is joined; it has 'Id', 'bird', 'cat', 'dog'; rename 'Id', since names compare as written",
    ),
    "class column of another case": (
        {"p.csv": GOOD.replace("dog", " Dog")},
        "p.csv: no column for class 'dog'; it has 'bird', 'cat', ' Dog'; rename ' Dog', since names compare as written",
    ),
    "class column of another number": (
        {"truth.csv": TRUTH.replace("cat", "0.0").replace("dog", "1.0").replace("bird", "1.0"), "good.csv": GOOD.replace("cat", "0")},
        "good.csv: no column for class '0.0' (and 1 more); it has 'bird', '0', 'dog'; rename '0', since names compare as written",
    ),
    "a pickle": ({"p.csv": pickle.dumps([1, 2.5])}, "p.csv: holds binary data, but must be text"),
    "missing class column": ({"p.csv": "id,bird,cat\n1,.5,.5\n"}, "p.csv: no column for class 'dog'; it has 'bird', 'cat'"),
    "doubled column": ({"p.csv": GOOD.replace("bird,cat", "cat,cat")}, "p.csv: column 'cat' stands 2 times in the header"),
    "doubled id": ({"p.csv": GOOD.replace("3,0.6", "2,0.6")}, "p.csv: id 2 stands again in data row 3, but must stand once"),
    "header of the truth only": ({"truth.csv": "id,label\n"}, "truth.csv: no rows below the header"),
    "doubled id of the truth": (
        {"truth.csv": TRUTH.replace("3,", "1,")},
        "truth.csv: id 1 of column 'id' stands again in data row 3, but must stand once",
    ),
    "missing ids": ({"p.csv": GOOD[:-14]}, "p.csv: 1 of 3 ids are missing, the first 3"),
    "extra ids": ({"p.csv": GOOD + "9,1,0,0\n"}, "p.csv: 1 id not in truth.csv, the first 9; --extra-ids ignore leaves them out"),
    "another id": (
        {"p.csv": GOOD.replace("\n2,", "\n02,")},
        "p.csv: 1 id not in truth.csv, the first '02'; --extra-ids ignore leaves them out",
    ),
    "text": ({"p.csv": GOOD.replace("0.7", "high")}, "p.csv: column 'dog' is 'high' in data row 1 (id 2), but must hold a number"),
    "empty cell": ({"p.csv": GOOD.replace("0.7", "")}, "p.csv: column 'dog' is empty in data row 1 (id 2), but must hold a number"),
    "NaN": ({"p.csv": GOOD.replace("0.7", "nan")}, "p.csv: column 'dog' is NaN in data row 1 (id 2), but must hold a number"),
    "outside [0, 1]": ({"p.csv": GOOD.replace("0.7", "7")}, "p.csv: column 'dog' at id 2 is 7.0, but probabilities lie in [0, 1]"),
    "short row": ({"p.csv": GOOD[:-9]}, "p.csv: data row 3 (id 3) is too short: 2 cells for 4 columns"),
    "long row": ({"p.csv": GOOD.replace("0.7", "0.7,0")}, "p.csv: data row 1 (id 2) is too long: 5 cells for 4 columns"),
    "no label": ({"truth.csv": TRUTH.replace("dog", "")}, "truth.csv: column 'label' has no label at id 2, but every row needs one"),
    "no id": ({"truth.csv": TRUTH.replace("2,", ",")}, "truth.csv: column 'id' is empty in data row 2, but every row needs an id"),
    "unreadable bytes": (
        {"p.csv": GOOD.encode().replace(b"0.7", b"\xff")},
        "p.csv: column 'dog' is '\\\\xff' in data row 1 (id 2), which is no UTF-8 text",
    ),
    "gzip cut short in the header": ({"p.csv.gz": gzip.compress(GOOD.encode())[:16]}, "p.csv.gz: cannot be read: it is cut short"),
    "a short row in zstd": ({"p.csv.zst": zstd(GOOD[:-9])}, "p.csv.zst: data row 3 (id 3) is too short: 2 cells for 4 columns"),
    "a long row in zstd": ({"p.csv.zst": zstd(GOOD.replace("0.7", "0.7,0"))}, "p.csv.zst: data row 1 (id 2) is too long: 5 cells for 4"),
    "text in zstd": ({"p.csv.zst": zstd(GOOD.replace("0.7", "x"))}, "p.csv.zst: column 'dog' is 'x' in data row 1 (id 2), but must hold"),
    "a short row in gzip": ({"p.csv.gz": gzip.compress(GOOD[:-9].encode())}, "p.csv.gz: data row 3 (id 3) is too short: 2 cells for 4"),
    "a short row under the name of gzip": ({"p.csv.gz": GOOD[:-9]}, "p.csv.gz: data row 3 (id 3) is too short: 2 cells for 4 columns"),
    "no line at all": ({"p.csv": "\n\n"}, "p.csv: the file has no header\n"),
    "no line in gzip": ({"p.csv.gz": gzip.compress(b"")}, "p.csv.gz: the file has no header\n"),
    "no id of a prediction": ({"p.csv": GOOD.replace("\n1,", "\n,")}, "p.csv: column 'id' is empty in data row 2, but every row needs"),
    "blank behind a number": ({"p.csv": GOOD.replace("0.7", " 0.7 ")}, "p.csv: column 'dog' is ' 0.7 ' in data row 1 (id 2), but must"),
    "underline in a number": ({"p.csv": GOOD.replace("0.7", "0_0.7")}, "p.csv: column 'dog' is '0_0.7' in data row 1 (id 2), but must"),
    "UTF-32": ({"p.csv": GOOD.encode("utf-32")}, "p.csv: is UTF-32 text, but must be UTF-8"),
    "UTF-16": ({"p.csv": GOOD.encode("utf-16")}, "p.csv: is UTF-16 text, but must be UTF-8"),
    "semicolons": ({"p.csv": GOOD.replace(",", ";")}, "p.csv: the header is one cell, 'id;bird;cat;dog': cells are parted by commas"),
    "commas in a .tsv": ({"p.tsv": GOOD}, "p.tsv: the header is one cell, 'id,bird,cat,dog'"),
    "an index of pandas": (
        {"p.csv": "".join(f"{k},{line}" for k, line in zip(["", 0, 1, 2], GOOD.splitlines(keepends=True), strict=True))},
        "p.csv: column '' may be an index that pandas wrote; to_csv(…, index=False) leaves it out",
    ),
    "no Parquet": ({"p.parquet": GOOD}, "p.parquet: cannot be read: parquet"),
    "no Arrow": ({"p.arrow": GOOD}, "p.arrow: cannot be read"),
    "zstd cut short": ({"p.csv.zst": ZSTD[:-8]}, "p.csv.zst: cannot be read"),
    "gzip cut short": (
        {"p.csv.gz": gzip.compress(GOOD.encode())[:-15]},
        "p.csv.gz: cannot be read after data row 2: it is cut short",
    ),
    "Parquet named as text": ({"p.csv": b"PAR1\x15\x04\x15\xff"}, "p.csv: is a Parquet file, but is named as text"),
    "unknown format": ({"p.dat": GOOD}, "p.dat: its name does not tell the format"),
    "a loss without -l": (
        {"mae": None},
        f"mae: its name does not tell the format; known are {', '.join([*table_formats.TEXT, *table_formats.BINARY])}, .npy, .npz, .zarr,"
        " .h5, and .gz and .zst behind those of text; a loss is named by -l mean_absolute_error",
    ),
    "no such file": ({"p.csv": None}, "p.csv: no such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables(run, kind):
    files, said = BAD[kind]
    for name, text in files.items():
        if text is not None:
            Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    bad = next(iter(files))
    status, lines, err = run("truth.csv", *(["good.csv"] if bad == "truth.csv" else [bad, "good.csv"]))
    assert status == 1
    assert err.startswith(f"polyloss score: {said}")
    assert err.count("\n") == 1
    # The other submission is scored all the same.
    assert lines == ([] if bad == "truth.csv" else [["good.csv", "log_loss", repr(float(SCORE))]])


def test_a_panic_of_the_reader_is_one_bad_file(run, monkeypatch):
    """Of which polars makes an exception that is no Exception; where a file is read ahead, too."""
    panic = polars.exceptions.PanicException("range end index 9 out of range for slice of length 4")
    with pytest.raises(BadFile, match=r"p\.arrow: cannot be read: range end index"), reading("p.arrow", None, []):
        raise panic
    for module in ("prediction_files", "join_by_id"):
        monkeypatch.setattr(f"polyloss._command.{module}.rows_of", Mock(side_effect=panic))
    assert run("truth.csv", "good.csv") == (1, [], f"polyloss score: good.csv: cannot be read: {panic}\n")


def test_rows_of_another_length_are_noticed_in_columns_that_nobody_reads(run):
    """But an empty cell there is no fault."""
    head, rows = "id,label,note,more\n", ["1,cat,x,y\n", "2,dog,,\n", "3,bird,x,\n"]
    Path("t.csv").write_text(head + "".join(rows) + "\n")
    assert run("t.csv", "good.csv", "--target", "label")[1] == [["good.csv", "log_loss", repr(float(SCORE))]]
    with_note = "".join(f"{line},{end}\n" for line, end in zip(GOOD.splitlines(), ("label", "", "x", ""), strict=True))
    Path("p.csv").write_text(with_note)
    given = "truth.csv", "p.csv", "--weight", "w"
    Path("truth.csv").write_text(
        TRUTH.replace("label", "label,w").replace("cat", "cat,1").replace("dog", "dog,1").replace("bird", "bird,1")
    )
    Path("p.csv").write_text(with_note.replace("label", "w"))
    assert run(*given)[1] == [["p.csv", "log_loss", repr(float(SCORE))]]
    for row, kind in (("2,dog,x\n", "short: 3 cells"), ("2,dog\n", "short: 2 cells"), ("2,dog,x,y,z\n", "long: 5 cells")):
        Path("t.csv").write_text(head + rows[0] + row + rows[2])
        assert run("t.csv", "good.csv", "--target", "label") == (
            1,
            [],
            f"polyloss score: t.csv: data row 2 (id 2) is too {kind} for 4 columns\n",
        )
        Path("p.csv").write_text(with_note.replace("label", "w").replace("0.1,x", "0.1" if "short" in kind else "0.1,x,y"))
        said = "short: 4 cells" if "short" in kind else "long: 6 cells"
        assert run(*given)[2] == f"polyloss score: p.csv: data row 2 (id 1) is too {said} for 5 columns\n"
        packed = head + rows[0] + row + rows[2]
        Path("t.csv.zst").write_bytes(zstd(packed))
        assert f"t.csv.zst: data row 2 (id 2) is too {kind}" in run("t.csv.zst", "good.csv", "--target", "label")[2]
        both = {"s": "2,.5,.5\n", "l": "2,.5,.5,dog,1\n"}[kind[0]]
        Path("both.csv").write_text("id,cat,dog,label\n1,.5,.5,cat\n" + both)
        status, _, err = run("both.csv", "both.csv", "--target", "label")
        assert status == 1
        assert f"both.csv: data row 2 (id 2) is too {kind.partition(':')[0]}" in err


def test_an_index_that_pandas_does_not_write(run):
    """It says what to do."""
    pandas = {"index_columns": [{"kind": "range", "name": "id", "start": 1, "stop": 4, "step": 1}]}
    polars.read_csv("good.csv").drop("id").write_parquet("p.parquet", metadata={"pandas": json.dumps(pandas)})
    assert run("truth.csv", "p.parquet")[2] == (
        "polyloss score: p.parquet: no column 'id', by which it is joined; it has 'bird', 'cat', 'dog'; for pandas 'id' is an index of"
        " which it writes no values: df.reset_index() makes it a column\n"
    )


def test_an_index_that_pandas_writes_without_a_name(run):
    """It is an id as any other, if both files have it; else it is said."""
    Path("t.csv").write_text(TRUTH.replace("id", ""))
    Path("p.csv").write_text(GOOD.replace("id", ""))
    assert run("t.csv", "p.csv")[1] == [["p.csv", "log_loss", repr(float(SCORE))]]
    assert "p.csv: no column 'id', by which it is joined; it has '', 'bird'" in run("truth.csv", "p.csv")[2]


@pytest.mark.parametrize("index", ["", "__index_level_0__"])
def test_one_file_has_its_ids_in_an_index_without_a_name(run, index):
    """It is said which column that is, and what to do."""
    write = _parquet_of_pandas if index else (lambda text, name: Path(name).write_text(text))
    kind = "parquet" if index else "csv"
    write(TRUTH.replace("id", index), f"t.{kind}")
    write(GOOD.replace("id", index), f"p.{kind}")
    options = ["--id", index, "--target", "label"]
    assert run(f"t.{kind}", f"p.{kind}", *options)[1] == [[f"p.{kind}", "log_loss", repr(float(SCORE))]]
    status, _, err = run("truth.csv", f"p.{kind}")
    assert status == 1
    assert f"p.{kind}: no column 'id', by which it is joined" in err
    assert f"; {index!r} is an index without a name, which pandas wrote: df.rename_axis('id') names it\n" in err
    status, _, err = run(f"t.{kind}", "good.csv", *options)
    assert status == 1
    assert f"good.csv: no column {index!r}, by which it is joined; it has 'id'" in err
    assert "; this name is that of an index without one, which pandas wrote: --id COLUMN says which column of the truth has the ids" in err


def _parquet_of_pandas(text, name):
    """As pandas writes it: the index last, which its metadata name."""
    first, *others = text.partition("\n")[0].split(",")
    pandas = {"index_columns": [first]}
    polars.read_csv(io.StringIO(text)).select(*others, first).write_parquet(name, metadata={"pandas": json.dumps(pandas)})


def test_an_index_in_parquet_is_the_first_column(run):
    """As it is in the text that pandas writes of the same table; but one without a name is left out, as where pandas reads it."""
    _parquet_of_pandas(TRUTH, "t.parquet")
    assert run("t.parquet", "good.csv")[1] == [["good.csv", "log_loss", repr(float(SCORE))]]
    for name, text in (("t.parquet", TRUTH), ("p.parquet", GOOD)):
        table = polars.read_csv(io.StringIO(text)).with_columns(__index_level_0__=polars.Series([2, 0, 1]))
        table.write_parquet(name, metadata={"pandas": json.dumps({"index_columns": ["__index_level_0__"]})})
    for truth in ("truth.csv", "t.parquet"):
        assert run(truth, "p.parquet")[1] == [["p.parquet", "log_loss", repr(float(SCORE))]]


def test_true_and_false_are_labels(run):
    """As pandas, polars and R write them, and as Parquet has them."""
    Path("p.csv").write_text("id,p\n1,0.25\n2,0.5\n3,0.75\n")
    Path("named.csv").write_text("id,True,False\n1,0.25,0.75\n2,0.5,0.5\n3,0.75,0.25\n")
    want = repr(pl.Accumulator("log_loss", labels=[0, 1]).update([1, 0, 1], [0.25, 0.5, 0.75]).result())
    for true, false in (("True", "False"), ("true", "false"), ("TRUE", "FALSE")):
        Path("t.csv").write_text(f"id,label\n1,{true}\n2,{false}\n3,{true}\n")
        assert [line[2] for line in run("t.csv", "p.csv", "-l", "bce", "-l", "log_loss")[1]] == [want] * 2
    polars.DataFrame({"id": [1, 2, 3], "label": [True, False, True]}).write_parquet("t.parquet")
    assert [line[2] for line in run("t.parquet", "p.csv", "-l", "bce", "-l", "log_loss")[1]] == [want] * 2
    assert run("t.parquet", "named.csv")[1] == [["named.csv", "log_loss", want]]
    Path("t.csv").write_text("id,label\n1,True\n2,0\n3,1\n")  # some of each
    said = "t.csv: column 'label' is 'True' at id 1, but must hold numbers, none of them NaN; log_loss takes labels as they are"
    assert run("t.csv", "p.csv", "-l", "bce") == (1, [], f"polyloss score: {said}\n")


def test_what_is_long_is_shortened_in_errors(run):
    """Names of columns, ids, cells, labels, headers."""
    long = "x" * 10**6
    for text, truth, options in (
        (GOOD.replace(",", ";").replace("bird", long), TRUTH, []),
        (GOOD.replace("id,", f"{long},"), TRUTH, []),
        (GOOD.replace("bird", long), TRUTH, []),
        (GOOD.replace("0.7", long), TRUTH, []),
        (GOOD + f"{long},0,0,1\n", TRUTH, []),
        (GOOD, TRUTH.replace("dog", long), []),
        (GOOD, TRUTH.replace("dog", long), ["-l", "mse"]),
        (GOOD, TRUTH.replace("label", long), ["--target", "Label"]),
        (GOOD.replace("bird", f"b{long},b{long}"), TRUTH, []),
        (GOOD.replace("0.7", "\udcff" * 10**6), TRUTH, []),
    ):
        Path("p.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
        Path("truth.csv").write_text(truth)
        status, lines, err = run("truth.csv", "p.csv", *options)
        assert (status, lines) == (2 if "--target" in options else 1, [])
        assert len(err) < 1000
        assert " characters)" in err


def test_a_bad_part_is_named(run):
    Path("a.csv").write_text("id,bird,cat,dog\n2,0.1,0.2,0.7\n")
    for numbers, option, said in (
        ("3,0.6,0.2,2", "-q", "b.csv: column 'dog' at id 3 is 2.0, but probabilities lie in [0, 1]"),
        ("3,0.6,-1,2", "--kaggle", "b.csv: column 'cat' at id 3 is -1.0, but probabilities are not negative"),
        ("3,0,0,0", "--kaggle", "b.csv: the row of id 3 adds up to 0.0, and cannot be divided by it"),
        ("3,0,,0", "-q", "b.csv: column 'cat' is empty in data row 2 (id 3), but must hold a number"),
        ("2,.1,.2,.7", "-q", "b.csv: id 2 stands again in data row 2, but must stand once"),
        ("+3,.1,.2,.7", "-q", "a.csv and b.csv: 1 id not in truth.csv, the first '+3'; --extra-ids ignore leaves them out"),
    ):
        Path("b.csv").write_text(f"id,bird,cat,dog\n1,0.1,0.8,0.1\n{numbers}\n")
        assert run("truth.csv", "a.csv", "b.csv", "--parts", option) == (1, [], f"polyloss score: {said}\n")


def test_bad_weights_and_directories(run):
    Path("truth.csv").write_text("id,label,w\n1,cat,1\n2,dog,-1\n3,bird,1\n")
    assert run("truth.csv", "good.csv", "--weight", "w")[2] == (f"polyloss score: truth.csv: column 'w' is -1.0 at id 2, but {WEIGHTS}\n")
    for word in ("nan", "inf", "heavy"):
        Path("truth.csv").write_text(f"id,label,w\n1,cat,1\n2,dog,{word}\n3,bird,1\n")
        said = word if word == "inf" else repr(word)
        assert run("truth.csv", "good.csv", "--weight", "w")[2] == (
            f"polyloss score: truth.csv: column 'w' is {said} at id 2, but {WEIGHTS}\n"
        )
    Path("truth.csv").write_text("id,label,w\n1,cat,1\n2,dog,\n3,bird,1\n")
    assert "truth.csv: column 'w' is empty at id 2" in run("truth.csv", "good.csv", "--weight", "w")[2]
    Path("folder.csv").mkdir()
    assert run("good.csv", "folder.csv", "--target", "cat")[2] == "polyloss score: folder.csv: is a directory, but must be a file\n"
    Path("folder.csv").rename("folder")
    assert run("good.csv", "folder", "--target", "cat")[2] == "polyloss score: folder: is a directory, but must be a file\n"


def test_bad_arrays(run):
    np.save("y.npy", np.array([0, 2, 1]))
    np.save("z.npy", np.zeros((3, 3)))
    np.save("long.npy", np.zeros((4, 3)))
    np.save("deep.npy", np.zeros((3, 2, 2), int))
    np.save("pickled.npy", np.array([{}], object), allow_pickle=True)
    np.savez("several.npz", a=np.zeros(3), b=np.zeros(3))
    Path("cut.npy").write_bytes(Path("z.npy").read_bytes()[:-8])
    Path("head.npy").write_bytes(Path("z.npy").read_bytes().replace(b"(3, 3)", b"(3, 3 "))
    np.savez("z.npz", z=np.zeros((3, 3)))
    Path("empty.npy").touch()
    Path("text.npy").write_text(TRUTH)
    Path("text.npz").write_text(TRUTH)
    Path("empty.npz").touch()
    Path("pickle.npy").write_bytes(pickle.dumps([1, 2]))
    Path("zip.npy").write_bytes(Path("several.npz").read_bytes())
    np.save("none0.npy", np.zeros(0, int))
    np.save("z0.npy", np.zeros((0, 3)))
    Path("cut.npz").write_bytes(Path("z.npz").read_bytes()[:-30])
    Path("changed.npz").write_bytes(Path("z.npz").read_bytes().replace(bytes(40), bytes(39) + b"1", 1))
    with h5py.File("z.h5", "w") as file:
        file.create_dataset("z", data=np.zeros((3, 3)), chunks=(3, 3), compression="gzip", fletcher32=True)
        offset = file["z"].id.get_chunk_info(0).byte_offset
    raw = Path("z.h5").read_bytes()
    Path("changed.h5").write_bytes(raw[: offset + 4] + bytes([raw[offset + 4] ^ 255]) + raw[offset + 5 :])
    for truth, predictions, said in (
        ("y.npy", "cut.npy", "cut.npy: cannot be read: it is cut short"),
        ("y.npy", "head.npy", "head.npy: cannot be read: its header is broken"),
        ("y.npy", "pickled.npy", "pickled.npy: cannot be read: it holds pickled objects, which are never loaded"),
        ("empty.npy", "z.npy", "empty.npy: the file is empty"),
        ("y.npy", "text.npy", "text.npy: is no NPY file"),
        ("y.npy", "text.npz", "text.npz: is no NPZ file"),
        ("y.npy", "empty.npz", "empty.npz: the file is empty"),
        ("y.npy", "pickle.npy", "pickle.npy: is a pickle, which is never loaded"),
        ("y.npy", "zip.npy", "zip.npy: is an archive: name it .npz"),
        ("none0.npy", "z0.npy", "z0.npy: has no samples"),
        ("y.npy", "long.npy", "long.npy: has 4 samples, but y.npy has 3"),
        ("deep.npy", "z.npy", "deep.npy: has shape (3, 2, 2), but labels for z.npy of shape (3, 3)"),
        ("y.npy", "several.npz", "several.npz: holds 2 arrays: name one, as several.npz::NAME; it has 'a', 'b'"),
        ("y.npy", "none.npy", "none.npy: no such file"),
        ("y.npy", "cut.npz", "cut.npz: cannot be read: File is not a zip file"),
        ("y.npy", "changed.npz", "changed.npz: cannot be read: Bad CRC-32 for file 'z.npy'"),
        ("y.npy", "changed.h5", "changed.h5: cannot be read: Can't synchronously read data"),
    ):
        status, lines, err = run(truth, predictions, "-l", "softmax_loss")
        assert (status, lines) == (1, [])
        assert err.startswith(f"polyloss score: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["truth.csv", "good.csv", "-l", "hubert"], "there is no loss named 'hubert'; did you mean 'huber'?"),
        (["truth.csv", "good.csv", "-l", "huber:dleta=1"], "--loss huber:dleta=1: huber has no parameter 'dleta'; did you mean delta?"),
        (["truth.csv", "good.csv", "-l", "huber:wat=1"], "huber has no parameter 'wat'; it has delta, axis, validate"),
        (["truth.csv", "good.csv", "-l", "huber:sample_weight=1"], "sample_weight is the command's to decide"),
        (["truth.csv", "good.csv", "-l", "softmax_loss:normalization=bogus"], "normalization is 'bogus', but must be one of"),
        (["truth.csv", "good.csv", "-l", "log_loss:epsilon=x"], "epsilon is 'x', but must be a number"),
        (["truth.csv", "good.csv", "-l", "dice"], "--loss dice: axis is None, but must name the axes of one set"),
        (["truth.csv", "good.csv", "--group-by", "id"], "--id and --group-by both name column 'id' of truth.csv"),
        (["truth.csv", "good.csv", "--weight", "w"], "--weight is 'w', but truth.csv has no such column; it has 'id', 'label'"),
        (["truth.csv", "good.csv", "--fail-above", "nan"], "--fail-above is NaN, but must be a number"),
        (["y.npy", "z.npy", "-l", "mse", "--extra-ids", "ignore"], "--extra-ids goes with tables"),
        (["y.npy", "z.npy", "-l", "mse", "--group-by", "g"], "--group-by goes with tables, whose columns have names"),
        (["y.npy", "z.npy", "-l", "mse", "--id", "g"], "--id goes with tables, whose columns have names"),
        (["truth.csv", "good.csv", "-l", "mse:axis=0"], "axis is 0, but that of a table's columns is 1"),
        (["truth.csv", "good.csv", "--paired"], "--paired compares two submissions or more"),
        (["truth.csv", "good.csv", "--ignore-label", "3"], "--ignore-label goes with arrays"),
        (["truth.csv", "good.csv", "--target", "Label"], "--target is 'Label', but truth.csv has no such column; did you mean 'label'?"),
        (["case.csv", "good.csv", "--target", "LABEL"], "case.csv has no such column; did you mean 'label' or 'Label'?"),
        (["truth.csv", "good.csv", "-l", "huber:DELTA=1"], "huber has no parameter 'DELTA'; did you mean delta?"),
        (["truth.csv", "good.csv", "-l", "logloss"], "logloss is binary_crossentropy, of each column by itself"),
        (["good.csv", "truth.csv"], "good.csv has 3 columns that could be the target"),
        (["usage.csv", "good.csv"], "('label', 'Usage'): name it with --target (or --kaggle leaves 'Usage' out)"),
        (["truth.csv", "one.csv"], "--loss is missing: one.csv has one column; -l log_loss is of probabilities, -l mse of other numbers"),
        (["good.csv", "good2.csv"], "--loss is missing: good2.csv has dense targets; -l bce is of probabilities, -l mse of other numbers"),
        (["truth.csv", "y.npy"], "truth.csv is a table, but y.npy holds arrays"),
        (["truth.csv", "good.csv", "--prediction", "id", "-l", "mse"], "--prediction is 'id', which is the column of the ids"),
        (["good.csv", "good.csv", "--target", "dog", "--prediction", "dog", "-l", "mse"], "--prediction is 'dog', which is the target"),
        (["truth.csv", "good.csv", "--target", "id"], "--id and --target both name column 'id' of truth.csv"),
        (["y.npy", "z.npy"], "--loss is missing"),
        (["truth.csv"], "Missing argument 'PREDICTIONS...'"),
    ],
)
def test_bad_usage(run, arguments, said):
    Path("usage.csv").write_text("id,label,Usage\n1,cat,Public\n2,dog,Private\n3,bird,Ignored\n")
    Path("case.csv").write_text("id,label,Label\n1,cat,1\n2,dog,2\n3,bird,3\n")
    Path("one.csv").write_text("id,p\n1,0.5\n2,0.5\n3,0.5\n")
    Path("good2.csv").write_text(GOOD)
    status, lines, err = run(*arguments)
    assert (status, lines) == (2, [])
    assert said in err


# ------------------------------------------------------------------------------------------------------------------ the rest


def test_losses_and_explain(capsys):
    assert main(["losses"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(pl.names())
    assert main(["losses", "mse"]) == 0
    assert "mse" in capsys.readouterr().out
    assert main(["explain", "softmax_loss", "32", "10"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("softmax_loss: ")
    assert "gradient" not in said
    assert main(["explain", "softmax_loss", "32", "10", "--gradient"]) == 0
    assert capsys.readouterr().out.strip() == str(pl.explain(pl.value_and_grad("softmax_loss"), np.zeros(32, int), np.zeros((32, 10), "f")))
    assert main(["explain", "softmax_loss", "32"]) == 2
    assert "SHAPE has one axis" in capsys.readouterr().err
    assert main(["explain", "nothing"]) == 2


def test_what_is_typed_is_completed(monkeypatch, capsys):
    """As bash asks for it: losses by name, files by the shell."""
    monkeypatch.setenv("_POLYLOSS_COMPLETE", "bash_complete")
    for words, want in (
        ("-l soft", "plain,softmax_loss\n"),
        ("tru", "file,tru\n"),
        ("truth.csv goo", "file,goo\n"),
        ("--gr", "plain,--group-by\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", f"polyloss score {words}")
        monkeypatch.setenv("COMP_CWORD", str(1 + len(words.split())))
        assert main([]) == 0
        assert capsys.readouterr().out == want


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_result_that_cannot_be_written():
    """One line, and no success."""
    command = [sys.executable, "-m", "polyloss", "score", "truth.csv", "good.csv"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "polyloss: cannot write the result: No space left on device\n")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "polyloss: cannot write the result: stdout is closed\n")


class Full(io.StringIO):
    """A stdout in memory that takes nothing."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_errors_of_writing_and_others(monkeypatch, capsys):
    """A stdout in memory has no descriptor; an error that has no file is none of writing; no descriptor is left open."""
    monkeypatch.setattr(sys, "stdout", Full())
    for arguments in (["score", "truth.csv", "good.csv"], ["losses"], ["explain", "mse"], ["demo", "mse"]):
        assert main(arguments) == 1
        assert capsys.readouterr().err == "polyloss: cannot write the result: No space left on device\n"

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for where, said in (((), "polyloss: Input/output error\n"), (("truth.csv",), "polyloss: truth.csv: Input/output error\n")):
        monkeypatch.setattr("polyloss._command.truth.read_truth", Mock(side_effect=OSError(errno.EIO, "Input/output error", *where)))
        assert main(["score", "truth.csv", "good.csv"]) == 1
        assert capsys.readouterr().err == said
    with open("out", "w") as kept:
        monkeypatch.setattr(sys, "stdout", kept)
        before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
        with pytest.raises(Unwritten), writing():
            raise OSError(errno.ENOSPC, "No space left on device")
        assert len(before) == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_an_interrupted_run(monkeypatch, capsys):
    """Ctrl-C ends with the status that shells know."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("polyloss._command.truth.read_truth", interrupted)
    assert main(["score", "truth.csv", "good.csv"]) == 130
    assert capsys.readouterr().out == ""


def test_cluster(run, monkeypatch):
    """An address that nobody answers is one line within seconds; tasks travel as pickles."""
    pytest.importorskip("distributed")
    np.save("y.npy", np.array([0, 2, 1]))
    np.save("z.npy", np.zeros((3, 3)))
    status, _, err = run("y.npy", "z.npy", "-l", "softmax_loss", "--dask", "tcp://127.0.0.1:9")
    assert status == 1
    assert err.startswith("polyloss score: --dask tcp://127.0.0.1:9: cannot be reached")
    assert err.count("\n") == 1
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster, Client(cluster) as client:
        address = client.scheduler.address
        assert run("y.npy", "z.npy", "-l", "softmax_loss", "--dask", address)[1] == run("y.npy", "z.npy", "-l", "softmax_loss")[1]
        options = labelled(run)
        for files in (["part*.parquet", "part*.parquet", "--parts"], ["whole.csv", "whole.csv"]):
            assert run(*files, *options, "--dask", address) == run(*files, *options)
        for name, other in (("one[1].parquet", "part2.parquet"), ("one1.parquet", "part0.parquet")):  # workers take names for no patterns
            Path(name).write_bytes(Path(other).read_bytes())
        np.save("z[1].npy", np.eye(3)), np.save("z1.npy", np.zeros((3, 3)))
        for asked in (("one[1].parquet", "one[1].parquet", *options), ("y.npy", "z[1].npy", "-l", "softmax_loss")):
            assert run(*asked, "--dask", address) == run(*asked)
        assert run("one[1].parquet", "one[1].parquet", *options)[1][0][2] == run("part2.parquet", "part2.parquet", *options)[1][0][2]
        Path("part2.parquet").write_bytes(b"PAR1")
        status, lines, err = run("part*.parquet", "part*.parquet", "--parts", *options, "--dask", address)
        assert (status, lines) == (1, [])
        assert err.startswith("polyloss score: part2.parquet: cannot be read")
        np.save("deep.npy", np.zeros((3, 2, 2), int))
        for truth in ("deep.npy", Path("deep.npy").resolve()):  # named as it was given, here and there
            asked = truth, "./z.npy", "-l", "softmax_loss"
            assert run(*asked, "--dask", address) == run(*asked)
            assert f" {truth}: has shape (3, 2, 2), but labels for ./z.npy " in run(*asked, "--dask", address)[2]

        def lacking(path, start, stop):
            raise usage(f"{path}: reading it needs h5py: pip install h5py")

        monkeypatch.setattr(arrays, "read", lacking)
        status, _, err = run("y.npy", "z.npy", "-l", "softmax_loss", "--dask", address)
        assert status == 2
        assert "Error: y.npy: reading it needs h5py" in err
    status, _, err = run("truth.csv", "good.csv", "--dask", address)
    assert status == 2
    assert "ids are joined on this machine" in err


def answering(answer):
    """A server that takes connections and sends this to each at once: its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        held = []
        while True:
            held.append(server.accept()[0])
            held[-1].sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def test_an_address_of_another_server(run):
    """One that says nothing is not waited for, and what one says is no matter."""
    pytest.importorskip("distributed")
    np.save("y.npy", np.array([0, 2, 1]))
    np.save("z.npy", np.zeros((3, 3)))
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"):
        address = f"tcp://127.0.0.1:{answering(answer)}"
        status, lines, err = run("y.npy", "z.npy", "-l", "softmax_loss", "--dask", address)
        assert (status, lines, err.count("\n")) == (1, [], 1)
        assert err.startswith(f"polyloss score: --dask {address}: cannot be reached: ")


@pytest.mark.parametrize(
    ("folder", "given", "message", "said"),
    [
        ("/", ["/data/y.npy"], "/data/y.npy: no such file", "/data/y.npy: no such file"),
        ("/", ["data/y.npy"], "/data/y.npy: no such file", "data/y.npy: no such file"),
        ("/tmp", ["x.npy", "/mnt/tmp/x.npy"], "/tmp/x.npy and /mnt/tmp/x.npy: off", "x.npy and /mnt/tmp/x.npy: off"),
        ("/tmp", ["a", "a.csv"], "/tmp/a.csv: its columns are not those of /tmp/a.", "a.csv: its columns are not those of a."),
        ("/tmp", ["z.h5::one", "z.h5::two"], "/tmp/z.h5::two: no; /tmp/z.h5 has 'one'", "z.h5::two: no; z.h5 has 'one'"),
    ],
)
def test_a_cluster_names_files_as_they_were_given(monkeypatch, folder, given, message, said):
    monkeypatch.chdir(folder)

    def fails(*_):
        raise BadFile(message)
        yield

    monkeypatch.setattr(_cluster, "each", fails)
    with pytest.raises(BadFile) as error:
        list(in_parts(len, [()], object(), given))
    assert error.value.message == said


def test_without_the_packages_of_the_command(tmp_path):
    """The demo runs with NumPy alone; click is asked for by name otherwise."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "polyloss", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "'polyloss[cli]'" in " ".join(done.stdout.split())
