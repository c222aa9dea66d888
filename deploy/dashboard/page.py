"""The page: a list of runs, and everything about the chosen one beside a second one, if wanted.

Each visitor has a `Page`; all look through one `Observatory`. Once a second what has changed is
sent to the browser, nothing else.
"""

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from nicegui import run as workers
from nicegui import ui

from deploy.dashboard import charts, panels
from deploy.dashboard.catalogue import Run, State
from deploy.dashboard.charts import Axis
from deploy.dashboard.difference import settings
from deploy.dashboard.drawing import TALL, WIDE, draw, topology
from deploy.dashboard.flows import diagnosis
from deploy.dashboard.ladder import ladder
from deploy.dashboard.observatory import Observatory, View

PERIOD_S = 1.0
STYLE = Path(__file__).with_name("style.css")
THEMES: dict[str, bool | None] = {"auto": None, "light": False, "dark": True}
THEME_COOKIE = "zapex_theme"

_NUMBER = "v => v == null ? '–' : v.toLocaleString('en', {maximumSignificantDigits: 4})"
_WHOLE = "v => v == null ? '–' : v.toLocaleString('en')"
_DURATION = (
    "v => v == null ? '–' : v < 100 ? v.toFixed(0) + ' s' : v < 6000 ? (v / 60).toFixed(1) + ' min'"
    " : (v / 3600).toFixed(1) + ' h'"
)
_DATE = (
    "v => new Date(1000 * v).toLocaleString('en-GB', {month: 'short', day: 'numeric', "
    "hour: '2-digit', minute: '2-digit'})"
)
COLUMNS: list[dict[str, Any]] = [
    {"name": "name", "label": "run", "align": "left"},
    {"name": "state", "label": "state", "align": "left"},
    {"name": "env", "label": "environment", "align": "left"},
    {"name": "score", "label": "greedy return", ":format": _NUMBER},
    {"name": "env_steps", "label": "env steps", ":format": _WHOLE},
    {"name": "wall_s", "label": "wall clock", ":format": _DURATION},
    {"name": "changed_s", "label": "changed", ":format": _DATE},
]
_HEADER_CELL = """
<q-th :props="props" :class="'col-' + props.col.name" tabindex="0"
  @keydown.enter.prevent="props.sort(props.col)" @keydown.space.prevent="props.sort(props.col)">
  {{ props.col.label }}
</q-th>
"""
# Plain rows: a hundred of Quasar's own take the browser ten times as long.
_BODY = """
<tr :class="['run', props.row.chosen]" tabindex="0" :data-run="props.row.name"
  :aria-selected="props.row.chosen == 'chosen'"
  @click="$parent.$emit('choose', props.row.name)"
  @keydown.enter.prevent="$parent.$emit('choose', props.row.name)"
  @keydown.space.prevent="$parent.$emit('choose', props.row.name)"
  @keydown.down.prevent="$event.currentTarget.nextElementSibling?.focus()"
  @keydown.up.prevent="$event.currentTarget.previousElementSibling?.focus()">
  <td v-for="col in props.cols" :key="col.name"
    :class="['col-' + col.name, col.align == 'left' ? 'text-left' : 'text-right']">
    <span v-if="col.name == 'state'" :class="['state', col.value]">{{ col.value }}</span>
    <template v-else>{{ col.value }}</template>
  </td>
</tr>
"""


def add_page(app: FastAPI, observatory: Observatory, *, compress: bool) -> None:
    """Put the page at /. `compress`: it travels over a network."""
    style = STYLE.read_text(encoding="utf-8")

    # The annotation is read by the web framework.
    def show(request: Request, run: str = "", versus: str = "") -> None:
        ui.add_head_html(f"<style>{style}</style>")
        Page(observatory, run, versus, request.cookies.get(THEME_COOKIE, "auto"))

    ui.page("/", title="zapex", language="en-US")(show)
    ui.run_with(
        app,
        title="zapex",
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        message_history_length=20,
        binding_refresh_interval=None,
        gzip_middleware_factory=GZipMiddleware if compress else None,
    )


class Page:
    """What one visitor sees."""

    def __init__(self, observatory: Observatory, name: str, versus: str, theme: str) -> None:
        self._observatory = observatory
        self._theme = theme if theme in THEMES else "auto"
        runs = observatory.runs()
        self._name = name or _first(runs)
        # An address may be older than the list: its second run may be gone, or be the first one.
        self._versus = versus if versus in self._others(runs) else None
        self._axis = Axis.ENV_STEPS
        self._only_differences = True
        self._drawn: dict[str, Any] = {}
        self._charts: dict[str, ui.echart] = {}
        self._build(runs)
        ui.timer(PERIOD_S, self._refresh)

    # ------------------------------------------------------------------------------------ building

    def _build(self, runs: list[Run]) -> None:
        self._dark = ui.dark_mode(THEMES[self._theme])
        with ui.element("header"):
            ui.html("<h1>zapex</h1>", sanitize=False)
            ui.label(str(self._observatory.runs_dir.resolve())).classes("path")
            self._theme_button = (
                ui.button(f"theme: {self._theme}", on_click=self._next_theme)
                .props("flat dense no-caps")
                .classes("theme")
            )
        with ui.element("main"):
            self._notes = ui.html(panels.notes(self._observatory.notes), sanitize=False)
            self._notes.classes("notes")
            self._table = self._build_table(runs)
            with ui.element("div").classes("toolbar"):
                self._title = ui.html("", sanitize=False).classes("title")
                self._select = (
                    ui.select(
                        self._others(runs),
                        label="compare with",
                        value=self._versus,
                        clearable=True,
                        with_input=True,
                        on_change=lambda e: self._compare(e.value),
                    )
                    .props("dense outlined options-dense")
                    .classes("versus")
                )
                ui.toggle(
                    {axis: str(axis) for axis in Axis},
                    value=self._axis,
                    on_change=lambda e: self._over(e.value),
                ).props("dense flat no-caps")
            self._run_notes = ui.html("", sanitize=False).classes("notes")
            self._tiles = ui.html("", sanitize=False, tag="dl").classes("tiles")
            self._panels = ui.element("div").classes("panels")

    def _build_table(self, runs: list[Run]) -> ui.table:
        columns = [{"field": c["name"], "sortable": True, **c} for c in COLUMNS]
        table = ui.table(
            rows=panels.rows(runs, self._name, self._versus),
            columns=columns,
            row_key="name",
            pagination={"rowsPerPage": 0, "sortBy": "changed_s", "descending": True},
        )
        table.props("flat dense hide-bottom binary-state-sort").classes("runs")
        table.add_slot("header-cell", _HEADER_CELL)
        table.add_slot("body", _BODY)
        table.on("choose", lambda e: self._choose(str(e.args)))
        return table

    def _build_panels(self) -> None:
        with _panel("Topology", "whole"):
            self._picture = ui.html("", sanitize=False).classes("picture")
            self._diagnosis = ui.label().classes("diagnosis")
        for name, title, width in (
            ("score", "Return: greedy ± one standard deviation, and in training (thin)", "double"),
            ("loss", "Loss", ""),
            ("ladder", "Recent return of each environment, by its ε", ""),
            ("priorities", "Priorities |δ| that the learner gave back", ""),
            ("ages", "Age of sampled experience: 0 newest, 1 oldest", ""),
            ("mean_q", "Mean Q-value", ""),
        ):
            with _panel(title, width):
                self._charts[name] = ui.echart({}, renderer="svg").classes("chart")
                if name == "ladder":
                    self._no_ladder = ui.label("no return is known").classes("empty over")
        with _panel("Replay", ""):
            self._fill = ui.html("", sanitize=False)
        with _panel("Refused so far", ""):
            self._refused = ui.html("", sanitize=False).classes("long")
        with _panel("Latest evaluation", ""):
            self._video = ui.video("").props("muted loop playsinline").classes("video")
            self._video_name = ui.label().classes("empty")
        with _panel("Configuration", "whole"):
            self._only = ui.checkbox(
                "differences only", value=True, on_change=lambda e: self._show_all(not e.value)
            ).props("dense")
            self._settings = ui.html("", sanitize=False).classes("configuration")

    # -------------------------------------------------------------------------------------- visitor

    def _next_theme(self) -> None:
        names = list(THEMES)
        self._theme = names[(names.index(self._theme) + 1) % len(names)]
        self._dark.value = THEMES[self._theme]
        self._theme_button.text = f"theme: {self._theme}"
        ui.run_javascript(
            f"document.cookie = '{THEME_COOKIE}={self._theme}; path=/; max-age=31536000; "
            "samesite=lax'"
        )

    async def _choose(self, name: str) -> None:
        if name == self._name:
            return
        self._name = name
        if self._versus == name:
            self._versus = self._select.value = None
        await self._turn_to()

    async def _compare(self, name: str | None) -> None:
        if name != self._versus:
            self._versus = name
            await self._turn_to()

    async def _turn_to(self) -> None:
        chosen = {"run": self._name, "versus": self._versus}
        query = urlencode({key: value for key, value in chosen.items() if value})
        ui.navigate.history.replace(f"/?{query}")
        await self._refresh()

    async def _over(self, axis: str) -> None:
        self._axis = Axis(axis)
        await self._refresh()

    async def _show_all(self, everything: bool) -> None:
        self._only_differences = not everything
        await self._refresh()

    def _others(self, runs: list[Run]) -> list[str]:
        return [run.name for run in runs if run.name != self._name]

    # ---------------------------------------------------------------------------------- each second

    async def _refresh(self) -> None:
        names = [self._name, *([self._versus] if self._versus else [])]
        # Files are read elsewhere: other visitors are served meanwhile.
        found = await workers.io_bound(self._look, names)
        if found is None:
            # The server is about to end.
            return
        runs, views = found
        if not self._name and runs:
            # The first run of this directory has begun; the next second shows it.
            self._name = _first(runs)
        self._show_list(runs)
        view, other = views[0], views[1] if len(views) > 1 else None
        if view is None:
            self._title.set_content(f"<h2>{escape(self._name)}</h2>")
            self._run_notes.set_content(panels.notes(["there is no such run"] * bool(self._name)))
            return
        self._show_view(view, other)

    def _look(self, names: list[str]) -> tuple[list[Run], list[View | None]]:
        views = self._observatory.views(names)
        return self._observatory.runs(), views

    def _show_list(self, runs: list[Run]) -> None:
        self._notes.set_content(panels.notes(self._observatory.notes))
        rows = panels.rows(runs, self._name, self._versus)
        if self._changed("rows", rows):
            self._table.rows = rows
        others = self._others(runs)
        if self._changed("others", others):
            kept = self._versus if self._versus in others else None
            self._select.set_options(others, value=kept)

    def _show_view(self, view: View, other: View | None) -> None:
        if not self._charts:
            # The browser has shown the list by now; the charts' library is a megabyte.
            with self._panels:
                self._build_panels()
        run = view.run
        phase = (view.status or {}).get("learner", {}).get("phase", "") if view.answered else ""
        self._title.set_content(panels.title(run, phase))
        self._run_notes.set_content(panels.notes(view.notes))
        self._tiles.set_content(panels.tiles(view, other))
        picture = topology(view)
        self._picture.set_content(draw(picture, WIDE) + draw(picture, TALL))
        mean = "" if run.state is State.RUNNING else "Means over the whole run. "
        self._diagnosis.set_text(mean + diagnosis(view.flows))
        self._show_charts(view, other)
        self._fill.set_content(panels.fill(view))
        self._refused.set_content(panels.refused(view))
        self._show_video(view)
        second = other.run if other is not None else None
        found = settings(run.settings, second.settings if second else None)
        self._only.set_visibility(second is not None)
        self._settings.set_content(
            panels.settings(
                found, run.name, second.name if second else None, self._only_differences
            )
        )

    def _show_charts(self, view: View, other: View | None) -> None:
        members = (view.status or {}).get("members", [])
        rungs = ladder(members, view.config) if view.config else []
        mine, theirs = _histograms(view), _histograms(other)
        options: Mapping[str, Callable[[], charts.Options]] = {
            "score": lambda: charts.score(view, other, self._axis),
            "loss": lambda: charts.column(view, other, self._axis, "learner_loss"),
            "mean_q": lambda: charts.column(view, other, self._axis, "learner_mean_q"),
            "ladder": lambda: charts.ladder(rungs),
            "priorities": lambda: charts.histogram(
                "replay_new_priority",
                mine.get("replay_new_priority"),
                theirs.get("replay_new_priority"),
            ),
            "ages": lambda: charts.histogram(
                "replay_sampled_age",
                mine.get("replay_sampled_age"),
                theirs.get("replay_sampled_age"),
            ),
        }
        for name, make in options.items():
            made = make()
            if self._changed(name, made):
                chart = self._charts[name]
                chart.options.clear()
                chart.options.update(made)
                chart.update()
        self._no_ladder.set_visibility(all(r.episode_return is None for r in rungs))

    def _show_video(self, view: View) -> None:
        path = view.video
        self._video.set_visibility(path is not None)
        self._video_name.set_text("no video was recorded" if path is None else path.name)
        if path is not None:
            # Another address for another video: the browser keeps what it has.
            source = f"/video/{quote(view.run.name)}?at={path.stat().st_mtime_ns}"
            if self._changed("video", source):
                self._video.set_source(source)

    def _changed(self, what: str, value: Any) -> bool:
        """Whether this is to be sent: the browser has something else."""
        changed = what not in self._drawn or self._drawn[what] != value
        self._drawn[what] = value
        return changed


def _panel(title: str, width: str) -> ui.element:
    panel = ui.element("section").classes(f"panel {width}")
    with panel:
        ui.html(f"<h3>{title}</h3>", sanitize=False)
    return panel


def _first(runs: list[Run]) -> str:
    """The newest run that goes on, or else the newest one."""
    going_on = [run for run in runs if run.state is State.RUNNING]
    return next((run.name for run in going_on or runs), "")


def _histograms(view: View | None) -> dict[str, list[float]]:
    found = (view.status or {}).get("histograms", {}) if view is not None else {}
    return found if isinstance(found, dict) else {}
