"""The embedded registry's one page: services, their instances and their health. Pure."""

from collections.abc import Iterable
from html import escape

from .catalog import Instance

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><title>Gatecrew registry</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem .3rem 0;vertical-align:top}
tr{border-bottom:1px solid #8884}small{opacity:.7}
.passing{color:#2a8a3e}.warning{color:#b07d00}.critical{color:#c62828}
</style></head><body>"""


def render_page(node: str, instances: Iterable[Instance]) -> str:
    by_service: dict[str, list[Instance]] = {}
    for instance in instances:
        by_service.setdefault(instance.definition.name, []).append(instance)
    parts = [_HEAD, f"<h1>Registry on {escape(node)}</h1>"]
    if not by_service:
        parts.append("<p>Nobody is registered.</p>")
    for service, members in sorted(by_service.items()):
        passing = sum(each.status == "passing" for each in members)
        parts.append(f"<h2>{escape(service)} <small>{passing} of {len(members)} passing</small></h2><table>")
        parts.append("<tr><th>Health<th>Instance<th>Address<th>Tags, meta<th>Check")
        parts += map(_row, sorted(members, key=lambda each: each.definition.id))
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>"])


def _row(instance: Instance) -> str:
    definition = instance.definition
    meta = [f"{key}={value}" for key, value in definition.meta.items()]
    output = "; ".join(check.output for check in instance.checks.values() if check.output)
    cells = (f"{definition.address}:{definition.port}", ", ".join([*definition.tags, *meta]), output)
    return f'<tr><td class="{instance.status}">{instance.status}<td>{escape(definition.id)}' + "".join(
        f"<td><small>{escape(cell)}</small>" for cell in cells
    )
