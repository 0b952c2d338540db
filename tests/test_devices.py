"""The table of devices, and a person's own over it."""

from pathlib import Path

import pytest

from scratchlab import devices
from scratchlab.devices import Device, device_table, find_device, own_table, price_per_hour, row_of
from scratchlab.errors import UsageError


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own_table().parent.mkdir()
    return own_table()


def test_the_table_reaches_from_the_gtx_1660_to_the_b200() -> None:
    assert {"GTX 1660", "T4", "V100", "RTX 3090", "A100 40GB", "H100", "B200"} <= device_table().keys()
    for name, row in device_table().items():
        assert row.memory, name
        assert row.bandwidth, name
        assert row.peak("float32"), name
        assert (row.bf16 is None) == (row.tf32 is None), name  # both came with Ampere


def test_cards_without_bf16_train_in_fp16() -> None:
    table = device_table()
    assert [table[name].precision for name in ("GTX 1660", "T4", "V100")] == ["fp16"] * 3
    assert table["RTX 3060"].precision == "bf16"
    assert Device(price=1.0, price_source="x", price_date=table["H100"].price_date).precision == "float32"


@pytest.mark.parametrize(
    ("full", "row"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
        ("NVIDIA GeForce GTX 1660 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA L40", None),
        ("AMD A10-7850K Radeon R7 (4 cores)", None),
        ("AMD EPYC (2 cores)", None),
    ],
)
def test_a_device_is_known_by_the_name_it_gives_itself(full: str, row: str | None, own: Path) -> None:
    found = row_of(full)
    assert (found and found[0]) == row


def test_ones_own_file_adds_and_overrides(own: Path) -> None:
    own.write_text(
        """
        [device.H100]
        price = 1.5
        price_source = "the shop next door"
        price_date = 2026-11-01
        [device."my box"]
        match = "AMD EPYC"
        price = 0
        price_source = "it is mine"
        price_date = 2026-11-01
        """,
        encoding="utf-8",
    )
    name, row = find_device("h100")
    assert (name, row.price, row.price_source, row.memory_gib) == ("H100", 1.5, "the shop next door", 80)
    assert price_per_hour("AMD EPYC (2 cores)") == 0
    assert price_per_hour("Intel") is None


def test_all_that_is_wrong_with_it_is_said_at_once(own: Path) -> None:
    own.write_text("[device.H100]\nprice = 1.5\n[device.X]\nmemory = 3\nbf16 = -1\n[device.Y]\nshare = 2\n", "utf-8")
    with pytest.raises(UsageError, match=r"4 problems") as caught:
        device_table()
    for said in ("price_source", 'device."X".memory: there is no such field', 'device."X".bf16', 'device."Y".share'):
        assert said in str(caught.value)
    own.write_text("device = 3", "utf-8")
    with pytest.raises(UsageError, match="devices are tables"):
        device_table()
    own.write_text("[H100]\nprice = 1.5\n[devices.T4]\nprice = 1\n", "utf-8")
    with pytest.raises(UsageError, match=r"H100, devices: a device is a table such as \[device\.T4\]"):
        device_table()
    own.write_text("[device", "utf-8")
    with pytest.raises(UsageError, match="not valid TOML"):
        device_table()


def test_an_unknown_device_is_named_with_those_there_are(own: Path) -> None:
    with pytest.raises(UsageError, match=r"'H900'.*RTX 3090.*devices\.toml"):
        find_device("H900")


def test_every_share_and_price_has_an_origin(own: Path) -> None:
    for name, row in device_table().items():
        assert (row.price is None) == (row.price_source is None) == (row.price_date is None), name
        assert (row.share is None) == (row.share_source is None), name
    assert 0 < devices.RULE_OF_THUMB < 1
