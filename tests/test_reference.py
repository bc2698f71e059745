"""The tables in docs/reference leave nothing out, and invent nothing: questions, settings, states, parameters."""

import ast
import re
from pathlib import Path

from tests.combinations import choices, questions
from tests.documents import pages, tables, words

PAGES = pages()
FOR_MAKE_DEV = {"HOST", "PORT", "FLOWER_PASSWORD", "FLOWER_PORT", "POSTGRES_PASSWORD", "BROKER_PASSWORD"}
NIGHT = PAGES["docs/how-to/debug-a-stuck-task.md"]


def test_every_state_and_every_kind_of_error_is_in_the_reference(renderings: list[Path]) -> None:
    tasks = renderings[0] / "app" / "tasks"
    states = re.findall(r'^    [A-Z]+ = "(\w+)"$', (tasks / "models.py").read_text(), re.MULTILINE)
    kinds = {kind for path in tasks.rglob("*.py") for kind in re.findall(r'"type": "(\w+)"', path.read_text())}
    first, _, errors = tables(PAGES["docs/reference/states.md"])
    assert [words(row[0])[0] for row in first] == states
    assert {words(row[0])[0] for row in errors} == kinds


def test_every_question_is_in_the_reference_and_in_the_readme() -> None:
    [table] = tables(PAGES["docs/reference/questions.md"])
    assert [words(row[0])[0] for row in table] == list(questions())
    for name, values, default, _ in table:
        asked = questions()[words(name)[0]]
        values_asked = [
            str(value).lower() if value in (True, False) else value for value in choices().get(words(name)[0], [])
        ]
        if values_asked:
            assert words(values) == values_asked
        if "{{" not in str(asked["default"]):
            assert words(default) == [str(asked["default"]).lower() if asked["type"] == "bool" else asked["default"]]
    short = next(table for table in tables(PAGES["README.md"]) if "`project_name`" in table[0][0])
    assert [word for row in short for word in words(row[0])] == list(questions())
    for row in short:
        for value in choices().get(words(row[0])[0], []):
            shown = value if isinstance(value, str) else {True: "yes", False: "no"}[value]
            assert shown in row[1], f"{row[0]} leaves out {shown}"


def test_every_setting_is_in_the_reference_with_its_default(renderings: list[Path]) -> None:
    fields: dict[str, set[object]] = {}
    for folder in renderings:
        of_this: set[str] = set()
        tree = ast.parse((folder / "app" / "settings.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        constant = isinstance(item.value, ast.Constant)
                        default = str(ast.literal_eval(item.value)) if item.value and constant else None
                        fields.setdefault(item.target.id.upper(), set()).add(default)
                        of_this.add(item.target.id.upper())
        for name, default in re.findall(r'environ\.get\("([A-Z_]+)", "(.*?)"\)', ast.unparse(tree).replace("'", '"')):
            fields.setdefault(name, set()).add(default)  # where the settings stand, so no setting itself
        examples = re.findall(r"^#([A-Z_]+)=", (folder / ".env.example").read_text(), re.MULTILINE)
        needed = set(re.findall(r"\$\{([A-Z_]+):\?", (folder / "compose.yaml").read_text()))
        flower = {"FLOWER_PASSWORD", "FLOWER_PORT"} if (folder / "scripts" / "flower.py").exists() else set()
        assert sorted(examples) == sorted(of_this | needed | flower | {"HOST", "PORT"})
    read, others, _ = tables(PAGES["docs/reference/settings.md"])
    assert {word for row in read for word in words(row[0])} == fields.keys()
    assert {word for row in others for word in words(row[0])} == FOR_MAKE_DEV
    for row in read:
        for default in words(row[1]):
            known = {str(value).lower() for value in fields[words(row[0])[0]]}
            assert default.lower() in known or default in {"project_slug"}, row


def test_the_parameters_of_a_task_are_those_of_the_code(renderings: list[Path]) -> None:
    tree = ast.parse((renderings[0] / "app" / "tasks" / "definition.py").read_text())
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "task"][-1].args
    defaults = {a.arg: ast.unparse(d) for a, d in zip(defined.kwonlyargs, defined.kw_defaults, strict=True) if d}
    first, *_ = tables(PAGES["docs/how-to/add-a-task.md"])
    assert [words(row[0])[0] for row in first] == list(defaults)
    for row in first[1:]:
        assert row[1].strip("`").replace('"', "'") == defaults[words(row[0])[0]]


def test_the_calls_of_routes_and_tasks_are_those_of_the_code(renderings: list[Path]) -> None:
    there: set[str] = set()
    for file, kind, name in (("dependency", "TaskSubmissions", "tasks"), ("context", "TaskContext", "context")):
        tree = ast.parse((renderings[0] / "app" / "tasks" / f"{file}.py").read_text())
        [methods] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind]
        for method in methods:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                for argument in ast.walk(method.args):
                    if isinstance(argument, ast.arg):
                        argument.annotation = None
                given = ast.unparse(method.args).removeprefix("self").removeprefix(", ")
                decorators = {ast.unparse(decorator) for decorator in method.decorator_list}
                waits = isinstance(method, ast.AsyncFunctionDef) and "asynccontextmanager" not in decorators
                call = f"{name}.{method.name}" if "property" in decorators else f"{name}.{method.name}({given})"
                there.add(f"await {call}" if waits else call)
    _, calls = tables(PAGES["docs/how-to/add-a-task.md"])
    assert {words(row[0])[0] for row in calls} <= there
    assert len(calls) == 10


def test_every_event_to_search_for_is_one_that_the_code_logs(renderings: list[Path]) -> None:
    logged = "".join(path.read_text() for folder in renderings for path in (folder / "app").rglob("*.py"))
    [table] = [rows for rows in tables(NIGHT) if "`task failed for good`" in rows[0][0]]
    named = {event for row in table for event in words(row[0])}
    named |= set(re.findall(r"the log has `([^`]+)`", NIGHT))
    for event in named:
        # What ends a run is logged as f"task {word}".
        assert f'"{event}"' in logged or f'"{event.removeprefix("task ")}"' in logged, event


def test_every_alert_leads_to_what_is_to_be_done() -> None:
    [table] = tables(PAGES["docs/reference/metrics.md"])
    alerts = {words(row[0])[0]: row[3] for row in table if row[3]}
    for name, alert in alerts.items():
        assert "debug-a-stuck-task.md#" in alert, name
        assert name in NIGHT, name
