"""Settings: where they come from, which wins, and what a wrong one is told."""

from pathlib import Path

import pytest

from pacs_core.errors import ConfigurationError
from pacs_core.model import Duplicates, Layout
from pacs_core.settings import Settings, load_settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def _write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "pacs.toml").write_text(text)


def test_without_anything_the_defaults_hold(home: Path) -> None:
    settings = load_settings(home)
    assert (settings.ae_title, settings.dicom_port, settings.http_port, settings.prefect_port, settings.dask_port) == (
        "PACS",
        11112,
        8042,
        4200,
        8786,
    )
    assert settings.duplicates is Duplicates.KEEP_FIRST
    assert settings.layout is Layout.UID


def test_all_state_is_below_the_home(home: Path) -> None:
    settings = load_settings(home)
    assert settings.landing_root == home / "hot"
    assert settings.index_data == str(home / "index")
    assert settings.journal_directory == home / "journal"


def test_the_file_sets_and_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, 'ae_title = "FROMFILE"\ndicom_port = 104\n')
    monkeypatch.setenv("PACS_DICOM_PORT", "2104")
    settings = load_settings(home)
    assert (settings.ae_title, settings.dicom_port) == ("FROMFILE", 2104)


def test_the_home_comes_from_the_argument_before_the_environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_HOME", str(tmp_path / "other"))
    assert load_settings(home).home == home
    assert load_settings().home == tmp_path / "other"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("archive")).home == tmp_path / "archive"


def test_a_tier_can_be_set_in_the_file_and_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(home, '[tiers.warm]\nurl = "s3://images/warm"\n')
    monkeypatch.setenv("PACS_TIERS__COLD__URL", "az://archive")
    tiers = load_settings(home).tiers
    assert {name: tier.url for name, tier in tiers.items()} == {
        "hot": str(home / "hot"),
        "warm": "s3://images/warm",
        "cold": "az://archive",
    }


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("dicom_port", "70000", "65535"),
        ("dicom_port", "eleven", "integer"),
        ("duplicates", "whatever", "'keep-first', 'replace' or 'reject'"),
        ("layout", "flat", "'uid' or 'date'"),
        ("log_level", "loud", "debug|info|warning|error"),
        ("ae_title", "MORE-THAN-SIXTEEN-CHARACTERS", "1 to 16"),
        ("ae_title", "BACK\\SLASH", "no backslash"),
        ("ae_title", "   ", "1 to 16"),
        ("listeners", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"PACS_{setting.upper()}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(home)
    assert setting in str(caught.value)
    assert told in str(caught.value)
    assert f"PACS_{setting.upper()}" in str(caught.value)


def test_every_wrong_setting_is_named_at_once(home: Path) -> None:
    _write(home, "dicom_port = 0\nhttp_port = 0\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(home)
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["dicom_port", "http_port"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dicomport = 104", "dicomport: there is no such setting; .*dicom_port"),
        ('[tiers.warm]\nurl = "/mnt"\nend = ""', "tiers.warm.end: there is no such setting; .*endpoint"),
        ('[archives.old]\nurl = "/mnt"\nend = ""', "archives.old.end: there is no such setting; .*endpoint"),
        (
            '[[migrations]]\nname = "a"\nsource = "hot"\ntarget = "hot"\nmodality = ["CT"]',
            "migrations.0.modality: there .*modalities.*unused_days",
        ),
        ('[[retentions]]\nname = "a"\nmodality = ["CT"]', "retentions.0.modality: there .*modalities.*undo_days"),
        ('[[archivals]]\nname = "a"\ndestination = "b"\nmodality = ["CT"]', "archivals.0.modality: there .*form.*modalities"),
    ],
)
def test_an_unknown_setting_is_told_the_known_ones(home: Path, content: str, message: str) -> None:
    _write(home, content + "\n")
    with pytest.raises(ConfigurationError, match=message):
        load_settings(home)


@pytest.mark.parametrize(
    "tables",
    [
        '[tiers.warm]\nurl = "s3://images"\n[tiers.cold]\nurl = "s3://images/"\n',
        '[tiers.warm]\nurl = "/mnt"\n[archives.tape]\nurl = "file:///mnt"\n',
    ],
)
def test_two_names_of_one_place_are_refused(home: Path, tables: str) -> None:
    """To move there would be to remove the only object."""
    _write(home, tables)
    with pytest.raises(ConfigurationError, match="are the same place"):
        load_settings(home)


def test_an_unknown_tier_is_refused(home: Path) -> None:
    _write(home, '[tiers.lukewarm]\nurl = "/mnt"\n')
    with pytest.raises(ConfigurationError, match="lukewarm is not a tier; allowed are hot, warm, cold"):
        load_settings(home)


def test_instances_cannot_land_on_remote_storage(home: Path) -> None:
    _write(home, '[tiers.hot]\nurl = "s3://bucket"\n')
    with pytest.raises(ConfigurationError, match="local path"):
        load_settings(home)


@pytest.mark.parametrize(
    ("tier", "told"),
    [
        ('url = "s3://b"\naccess_tier = "Cool"', "access_tier is of az:// only"),
        ('url = "az://c"\nstorage_class = "GLACIER"', "storage_class is of s3:// only"),
        ('url = "/data"\nendpoint = "http://x"', "endpoint is of s3:// and az:// only"),
        ('url = "s3://b"\nkms_key_id = "k"', "kms_key_id needs server_side_encryption"),
        ('url = "s3://b"\nserver_side_encryption = "aws:kms"\nstorage_class = "GLACIER"', "exclude each other"),
        ('url = "s3://b"\npart_size = 1', "tiers.warm.part_size"),
        ('url = "s3://b"\nacces_tier = "Cool"', "the settings are access_tier"),
    ],
)
def test_a_wrong_setting_of_a_tier_is_told_without_its_options(home: Path, tier: str, told: str) -> None:
    _write(home, f'[tiers.warm]\n{tier}\noptions = {{ secret = "never shown" }}\n')
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_settings(home)
    assert "never shown" not in str(caught.value)


def test_a_file_that_is_not_toml_is_named(home: Path) -> None:
    _write(home, "ae_title = \n")
    with pytest.raises(ConfigurationError, match=r"pacs\.toml is not valid TOML"):
        load_settings(home)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_sources_of_priors_and_rules_of_forwarding_are_tables_of_the_file(home: Path) -> None:
    _write(
        home,
        '[[prefetch_sources]]\npeer = "ONE"\n[[prefetch_sources]]\npeer = "TWO"\nhow = "get"\nper_minute = 5\n'
        '[[forwards]]\nname = "all"\npeer = "ONE"\n',
    )
    settings = load_settings(home)
    assert [(each.peer, each.how, each.per_minute) for each in settings.prefetch_sources] == [("ONE", "move", 30), ("TWO", "get", 5)]
    assert [(each.name, each.peer, each.give_up_hours) for each in settings.forwards] == [("all", "ONE", 72)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[prefetch_sources]]\npeer = "A"\n[[prefetch_sources]]\npeer = "A"\n', "prefetch_sources: A stands there more than once"),
        ('[[forwards]]\nname = "a"\npeer = "A"\n[[forwards]]\nname = "a"\npeer = "B"\n', "forwards: a stands there more than once"),
        ('[[prefetch_sources]]\npeer = "A"\nhow = "ftp"\n', "how"),
        ('[[forwards]]\nname = "a"\npeer = "A"\nmodality = "CT"\n', "there is no such setting; the settings are condition"),
    ],
)
def test_a_wrong_source_or_rule_is_told(home: Path, text: str, told: str) -> None:
    _write(home, text)
    with pytest.raises(ConfigurationError, match=told):
        load_settings(home)
