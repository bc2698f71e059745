"""`make schedules format=crontab` (or kubernetes): the declared schedules, for what calls the API when they are due.

The API decides what is due, and each firing happens once. So a call too many does nothing, and the last entry makes up
for calls that never came: the API was down, or the caller's clock left out an hour that summer time skips.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from hashlib import sha256
from json import dumps
from string import Template
from typing import Any

from app.features import load_tasks
from app.tasks import Schedule
from app.tasks.schedule import load_schedules, schedules
from app.tasks.timetable import FIELDS
from scripts.environment import ROOT

LONGEST_NAME = 52
"""Of a CronJob: Kubernetes appends to it."""
EVERY_MINUTE = "* * * * *"
CATCH_UP = "*/5 * * * *"
CALL = (
    'echo "Authorization: Bearer $$INTERNAL_TOKEN" | curl --silent --show-error --fail --max-time 30 --retry 5'
    ' --retry-connrefused --request POST --header @- "$$API_URL/internal/schedules/$path"'
)

CRONTAB = Template("""\
# The schedules of $service, for the crontab of a user that may read this file, which sets INTERNAL_TOKEN and
# API_URL (http://127.0.0.1:8000), one a line; it belongs to that user and has the mode 0600:
CALLER_ENV=/etc/$service/caller.env
# Where cron knows no CRON_TZ, the last line fires what has another time zone, up to five minutes late.
""")

CRONJOB = Template("""\
---
# $comment
apiVersion: batch/v1
kind: CronJob
metadata:
  name: $job
  labels:
    app.kubernetes.io/part-of: $service
spec:
  schedule: $times
  timeZone: $zone
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: $grace
  suspend: $suspend
  successfulJobsHistoryLimit: 1
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 2
      activeDeadlineSeconds: 300
      template:
        spec:
          restartPolicy: Never
          automountServiceAccountToken: false
          containers:
            - name: call
              image: curlimages/curl:8.16.0
              command: [sh, -c]
              args:
                - >-
                  $call
              env:
                - name: API_URL
                  value: http://$service:8000
                - name: INTERNAL_TOKEN
                  valueFrom:
                    secretKeyRef:
                      name: $service
                      key: INTERNAL_TOKEN
              resources:
                requests: { cpu: 10m, memory: 16Mi }
                limits: { memory: 64Mi }
              securityContext:
                runAsNonRoot: true
                runAsUser: 65534
                readOnlyRootFilesystem: true
                allowPrivilegeEscalation: false
                capabilities: { drop: [ALL] }
                seccompProfile: { type: RuntimeDefault }
""")


def to_crontab(service: str, declared: Iterable[Schedule[Any]]) -> str:
    """Return lines for a crontab; those of one time zone stand together."""
    lines = [CRONTAB.substitute(service=service).rstrip()]
    zone = None
    for schedule in sorted(declared, key=lambda schedule: (schedule.time_zone, schedule.name)):
        if schedule.time_zone != zone:
            zone = schedule.time_zone
            lines.append(f"CRON_TZ={zone}")
        off = "" if schedule.enabled else "# not enabled: "
        lines.append(f"{off}{cron_text(schedule)} {crontab_call(f'{schedule.name}/run')}")
    return "\n".join([*lines, f"{CATCH_UP} {crontab_call('run-due')}"])


def to_kubernetes(service: str, declared: Iterable[Schedule[Any]]) -> str:
    """Return CronJobs. They expect a Service of this name on port 8000 and a Secret of it with INTERNAL_TOKEN."""
    jobs = [
        CRONJOB.substitute(
            comment=f"{schedule.name}: {schedule.times}, submits {schedule.task.name}",
            service=service,
            job=job_name(f"{service}-{schedule.name}"),
            times=dumps(cron_text(schedule)),
            zone=dumps(schedule.time_zone),
            grace=int(schedule.grace.total_seconds()),
            suspend=dumps(not schedule.enabled),
            call=call(f"{schedule.name}/run"),
        )
        for schedule in declared
    ]
    catch_up = CRONJOB.substitute(
        comment="whatever is due and was not called for in time",
        service=service,
        job=job_name(f"{service}-run-due"),
        times=dumps(CATCH_UP),
        zone=dumps("UTC"),
        grace=300,
        suspend="false",
        call=call("run-due"),
    )
    return "".join([*jobs, catch_up]).rstrip()


def call(path: str) -> str:
    """Return the shell command of a call; the token is in nobody's list of processes."""
    return Template(CALL).substitute(path=path)


def crontab_call(path: str) -> str:
    """Return the command of a line in a crontab."""
    return f'. "$CALLER_ENV"; {call(path)} > /dev/null'


def cron_text(schedule: Schedule[Any]) -> str:
    """Return when to call: an interval is looked at every minute, and 7 for Sunday, which not all know, is 0."""
    if not isinstance(schedule.when, str):
        return EVERY_MINUTE
    *others, days = schedule.when.upper().split()
    if re.search(r"(?<!/)\b7\b", days):
        days = ",".join(map(str, sorted({day % 7 for day in FIELDS[-1].parse(days)})))
    return " ".join([*others, days])


def job_name(name: str) -> str:
    """Return the name, shortened so that it stays unique if it is too long."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9].rstrip('-')}-{sha256(name.encode()).hexdigest()[:8]}"


def main(arguments: list[str]) -> int:
    """Print the schedules in the format that is asked for."""
    formats = {"crontab": to_crontab, "kubernetes": to_kubernetes}
    if len(arguments) != 1 or arguments[0] not in formats:
        print("make schedules: say which: make schedules format=crontab, or format=kubernetes", file=sys.stderr)
        return 1
    load_tasks()
    load_schedules()
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    print(formats[arguments[0]](service, schedules))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
