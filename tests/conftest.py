import logging
import os
import urllib.request
import uuid

import pytest
from hypothesis import HealthCheck, Phase, settings

# By default the same few examples every time, so that a red test is red for everybody and at once.
# HYPOTHESIS_PROFILE=thorough looks further, and elsewhere each time.
settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    max_examples=30,
    deadline=None,
    phases=set(Phase) - {Phase.explain},  # it makes a red test minutes slower
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "thorough",
    settings.get_profile("default"),
    derandomize=False,
    max_examples=1000,
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # threads of several tests at once would wait for each other


@pytest.fixture(scope="session")
def s3():
    """An S3-speaking server on loopback with one bucket, and the environment that leads to it."""
    server_module = pytest.importorskip("moto.server", reason="no S3 server: moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request otherwise
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    try:
        server.start()
    except OSError as error:
        pytest.skip(f"no S3 server: loopback refuses ({error})")
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/tests", method="PUT")).close()
    yield environment
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def where(request, tmp_path):
    """A new address for a cube: every test that takes it runs on a local folder and on S3."""
    if request.param == "folder":
        return str(tmp_path / "cube.zarr")
    request.getfixturevalue("s3")
    return f"s3://tests/{uuid.uuid4().hex}/cube.zarr"


@pytest.fixture
def make(tmp_path):
    """Writes a small simulated cube, or another, and gives its path."""
    from measured import SMALL
    from tempocube.dataset.simulated import Effects, cube

    def made(design=SMALL, effects=None, seed=1, **options):
        return cube(design, effects or Effects(), tmp_path / "cube.zarr", seed, overwrite=True, **options).url

    return made
