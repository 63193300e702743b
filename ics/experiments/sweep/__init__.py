"""Many runs, on the cores of this machine or on a Ray cluster. Each is a run folder like any other."""

from ics.experiments.sweep.jobs import Job, JobResult
from ics.experiments.sweep.running import run_jobs
from ics.experiments.sweep.training import folder_name, job_of, jobs_of

__all__ = ["Job", "JobResult", "folder_name", "job_of", "jobs_of", "run_jobs"]
