"""The table of the zoo's checks: a part of it can be run again."""

import csv
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_rows_of_other_networks_and_checks_stay(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import check_zoo

    path = tmp_path / "zoo.csv"

    def row(model, check, detail):
        return {"model": model, "check": check, "ok": True, "detail": detail}

    check_zoo.write_csv(path, [row("quicknet", "small", "first"), row("mlp", "real", "first")])
    check_zoo.write_csv(path, [row("quicknet", "real", "then"), row("mlp", "real", "then")])
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["model"], row["check"], row["detail"]) for row in rows] == [
        ("mlp", "real", "then"),
        ("quicknet", "real", "then"),
        ("quicknet", "small", "first"),
    ]
