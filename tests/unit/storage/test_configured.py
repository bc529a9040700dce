from collections.abc import Mapping
from pathlib import Path

import pytest

from pacs_core.errors import ConfigurationError
from pacs_core.ports import ObjectStore
from pacs_core.settings import load_settings
from pacs_core.storage.configured import ConfiguredTiers
from pacs_core.storage.tiers import open_tier
from pacs_core.wiring import tiers


def test_a_tier_that_is_entered_later_is_found_by_a_process_that_runs(tmp_path: Path) -> None:
    by_name = tiers.stores(load_settings(tmp_path))
    hot = by_name["hot"]
    (tmp_path / "pacs.toml").write_text(f'[archives.offsite]\nurl = "{tmp_path / "offsite"}"\n[tiers.warm]\nurl = "{tmp_path / "warm"}"\n')
    assert {"warm", "offsite"}.isdisjoint(set(by_name))
    assert by_name["warm"].local_path("a") == tmp_path / "warm" / "a"
    assert "offsite" in by_name
    assert by_name["hot"] is hot


class Settings:
    """Which tiers there are, and how often somebody asked."""

    def __init__(self, tiers: Mapping[str, ObjectStore]) -> None:
        self.tiers, self.asked, self.is_broken = tiers, 0, False

    def load(self) -> Mapping[str, ObjectStore]:
        self.asked += 1
        if self.is_broken:
            raise ConfigurationError("pacs.toml is not valid TOML")
        return self.tiers


def test_a_name_that_is_not_known_is_looked_for_and_not_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hot, warm = open_tier(str(tmp_path / "hot")), open_tier(str(tmp_path / "warm"))
    settings = Settings({"hot": open_tier(str(tmp_path / "elsewhere"))})
    known = ConfiguredTiers({"hot": hot}, settings.load)
    assert (known["hot"], settings.asked) == (hot, 0)
    assert ("warm" in known, known.get("warm"), settings.asked) == (False, None, 1)
    settings.tiers = {**settings.tiers, "warm": warm}
    assert "warm" not in known
    monkeypatch.setattr("pacs_core.storage.configured._LOOK_AGAIN", 0)
    assert (known["warm"], known["hot"], len(known), settings.asked) == (warm, hot, 2, 2)


def test_settings_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    settings = Settings({})
    settings.is_broken = True
    hot = open_tier(str(tmp_path / "hot"))
    known = ConfiguredTiers({"hot": hot}, settings.load)
    with pytest.raises(KeyError):
        known["warm"]
    assert dict(known) == {"hot": hot}
