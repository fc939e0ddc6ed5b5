"""The layer for Lambda holds wheels for Lambda's platform, on whichever machine it was built, and little else."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.config import Config
from botocore.session import Session

from tests.build.conftest import runtime

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ["arm64", "x86_64"]
# e_machine of the ELF header: EM_AARCH64 and EM_X86_64
ELF_MACHINES = {"arm64": 183, "x86_64": 62}
WHEEL_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
# AL2023 has glibc 2.34, and AL2, on which python3.11 runs, 2.26.
NEWEST_GLIBC = {"python3.11": (2, 26)}
AL2023_GLIBC = (2, 34)
PLATFORM = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
MEGABYTE = 2**20

Layer = Callable[[str], Path]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_wheel_is_for_lambdas_platform(lambda_layer: Layer, architecture: str) -> None:
    wheels = list((lambda_layer(architecture) / "python").glob("*.dist-info/WHEEL"))
    assert wheels
    for wheel in wheels:
        tags = re.findall(r"^Tag: (\S+)$", wheel.read_text(), re.MULTILINE)
        assert any(fits(tag, architecture) for tag in tags), f"{wheel.parent.name}: {tags}"


def fits(tag: str, architecture: str) -> bool:
    interpreter, abi, platforms = tag.split("-")
    if platforms == "any":
        return interpreter in {"py3", "py2.py3"} and abi == "none"
    # A wheel for the stable interface is for its Python and every later one.
    older = abi == "abi3" and version(interpreter) <= version(runtime(architecture))
    if not older and interpreter not in {runtime(architecture).replace("python", "cp").replace(".", ""), "py3"}:
        return False
    return any(
        (int(major), int(minor)) <= NEWEST_GLIBC.get(runtime(architecture), AL2023_GLIBC)
        and machine == WHEEL_MACHINES[architecture]
        for major, minor, machine in (match.groups() for match in PLATFORM.finditer(platforms))
    )


def version(python: str) -> tuple[int, int]:
    """3.11 of "python3.11" or "cp311"."""
    (minor,) = re.findall(r"3\.?(\d+)$", python)
    return 3, int(minor)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_library_is_for_lambdas_processor(lambda_layer: Layer, architecture: str) -> None:
    libraries = [path for path in lambda_layer(architecture).rglob("*") if re.search(r"\.so(\.|$)", path.name)]
    assert len(libraries) > 3
    for library in libraries:
        header = library.read_bytes()[:20]
        assert header[:4] == b"\x7fELF", library.name
        assert int.from_bytes(header[18:20], "little") == ELF_MACHINES[architecture], library.name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_holds_exactly_the_packages_of_its_lock(lambda_layer: Layer, architecture: str) -> None:
    lock = (ROOT / "layers" / "shared" / "requirements.txt").read_text()
    locked = {
        name
        for name, marker in re.findall(r"^([a-z0-9-]+)==\S+(?: ; (.*?))? \\$", lock, re.MULTILINE)
        if "win32" not in marker
    }
    installed = {
        re.sub(r"[-_.]+", "-", path.name.rsplit("-", 2)[0] if path.name.count("-") > 1 else path.name.split("-")[0])
        for path in (lambda_layer(architecture) / "python").glob("*.dist-info")
    }
    assert installed == locked


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_is_small(lambda_layer: Layer, architecture: str, record_property: Callable[[str, object], None]) -> None:
    size = sum(path.stat().st_size for path in lambda_layer(architecture).rglob("*") if path.is_file()) / MEGABYTE
    record_property("megabytes", round(size, 1))
    print(f"layer for {architecture}: {size:.1f} MB unzipped")
    assert size < 50  # Lambda's limit is 250 for a function with all its layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_private_files_are_shipped(lambda_layer: Layer, architecture: str) -> None:
    stray = {"tests", ".git", ".env", "RECORD", "INSTALLER"}
    assert not [path for path in lambda_layer(architecture).rglob("*") if path.name in stray]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_botocore_has_the_services_that_are_called(lambda_layer: Layer, architecture: str) -> None:
    known = {path.name for path in (lambda_layer(architecture) / "python/botocore/data").iterdir() if path.is_dir()}
    sources = [*(ROOT / "layers/shared/sluice").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
    called = {
        service
        for source in sources
        for service in re.findall(r"""(?:client|create_client)\(\s*["']([a-z0-9-]+)["']""", source.read_text())
    }
    assert called <= known


@pytest.mark.parametrize(("variable", "parameter"), [("SLUICE_BUILD", "Architecture"), ("SLUICE_RUNTIME", "Runtime")])
@pytest.mark.parametrize("makefile", ["bytecode.mk", "layers/shared/Makefile"])
def test_layer_is_built_for_the_defaults_of_the_template(makefile: str, variable: str, parameter: str) -> None:
    template = (ROOT / "template.yaml").read_text()
    (built,) = re.findall(rf"^{variable} \?= (\S+)$", (ROOT / makefile).read_text(), re.MULTILINE)
    (deployed,) = re.findall(rf"^  {parameter}:\n    Type: String\n    Default: (\S+)$", template, re.MULTILINE)
    assert built == deployed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_botocore_with_less_in_it_finds_the_same_endpoints(lambda_layer: Layer, architecture: str) -> None:
    data = lambda_layer(architecture) / "python" / "botocore" / "data"
    for service in ("sqs", "secretsmanager", "lambda", "bedrock-runtime", "sagemaker-runtime"):
        for region in ("eu-west-1", "us-gov-west-1", "cn-north-1"):
            for dual in (False, True):
                found = []
                for folder in (None, data):
                    session = Session()
                    if folder is not None:
                        session.get_component("data_loader").search_paths.insert(0, str(folder))
                    session.set_credentials("id", "secret")
                    client = session.create_client(
                        service, region_name=region, config=Config(use_dualstack_endpoint=dual)
                    )
                    found.append((client.meta.endpoint_url, client.meta.region_name))
                assert found[0] == found[1], (service, region, dual)
