"""The tree for people: what DESIGN §4 and the README show, printed from the spec."""

from __future__ import annotations

from supervisors.engine.child import AnySpec, SupervisorSpec


def render(spec: SupervisorSpec) -> str:
    """One line a node in start order: id, strategy and intensity of a supervisor, restart type if not permanent."""
    lines = [_label(spec)]
    _render_children(spec, "", lines)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in lines)


def _render_children(spec: SupervisorSpec, prefix: str, lines: list[tuple[str, str]]) -> None:
    for child in spec.children:
        is_last = child is spec.children[-1]
        name, text = _label(child)
        lines.append((f"{prefix}{'└─ ' if is_last else '├─ '}{name}", text))
        if isinstance(child, SupervisorSpec):
            _render_children(child, f"{prefix}{'   ' if is_last else '│  '}", lines)


def _label(spec: AnySpec) -> tuple[str, str]:
    parts = []
    if isinstance(spec, SupervisorSpec):
        limit = spec.intensity
        parts.append(f"({spec.strategy})")
        parts.append(f"{limit.restarts_max} in {limit.period_s:g} s" if limit else "for ever, under backoff")
    if spec.restart.value != "permanent":
        parts.append(spec.restart.value)
    return spec.id, " ".join(parts)
