"""What the page on the audit log says of rights in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from cloudevents_kit.event_log import EventLog
from cloudevents_kit.stores import open_store
from cloudevents_kit.testing._events import new
from tests.support.sql import execute

PAGE = Path("docs/audit-log.md").read_text(encoding="utf-8")
GRANTS = [line.removesuffix(";").replace("audit", "{}") for line in PAGE.splitlines() if line.startswith("GRANT ")]
ALL = [
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
    "REVOKE UPDATE, DELETE ON cek_log FROM {}",
]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("grants", [GRANTS, ALL])
async def test_a_service_that_may_only_append_to_its_log_can_work_with_it(url: str, grants: list[str]) -> None:
    assert len(grants) > 1
    async with open_store(url) as owner:
        await EventLog(owner.event_log).append("received", new(id="1"))
    service = f"service_{sa.make_url(url).database}"
    await execute(
        url,
        f"CREATE ROLE {service} LOGIN",
        *(grant.format(service) for grant in grants),
    )
    as_service = sa.make_url(url).set(username=service).render_as_string(hide_password=False)
    try:
        async with open_store(as_service) as store:
            log = EventLog(store.event_log)
            await log.append("received", [new(id="2")])
            assert [record.event.id async for record in log.read("received")] == ["1", "2"]
        for change in ("UPDATE cek_log SET position = 7", "DELETE FROM cek_log", "TRUNCATE cek_log"):
            with pytest.raises(Exception, match="permission denied for table cek_log"):
                await execute(as_service, change)
    finally:
        await execute(url, f"DROP OWNED BY {service}", f"DROP ROLE {service}")
