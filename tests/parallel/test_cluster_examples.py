"""The worked examples run on real clusters; a second run finds the checkpoint of the first."""

import os
import pathlib
import subprocess
import sys

import pytest

import skdvl

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
PACKAGE = pathlib.Path(skdvl.__file__).parents[1]


def run(tmp_path, script, *arguments, times=1, **variables):
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    tables = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / script), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **variables},
            timeout=200,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout.partition("the ten rows of least value:")[2])
    assert len(tables[0].splitlines()) == 12
    assert len(set(tables)) == 1
    return done.stdout


@pytest.mark.ray
def test_ray_cluster(ray_cluster, tmp_path):
    out = run(tmp_path, "ray_cluster.py", "30", RAY_ADDRESS=ray_cluster.address)
    assert "4 calls at once" in out


@pytest.mark.dask
def test_dask_cluster(open_backend, dask_client, tmp_path):
    open_backend("dask").unregister()  # with both workers alive
    address = dask_client.scheduler.address
    out = run(tmp_path, "dask_cluster.py", address, "30", times=2)
    assert "2 threads on 2 workers" in out
