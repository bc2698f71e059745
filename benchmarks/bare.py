"""What generated services are compared with: an API that hands work to ARQ or Celery directly, and records nothing."""

ARQ = """
import json, os
from contextlib import asynccontextmanager
from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI

redis = RedisSettings.from_dsn(os.environ["BROKER_URL"])
dumps = lambda job: json.dumps(job).encode()

async def nothing(ctx, number):
    return number

async def count(ctx):
    await ctx["redis"].incr("bare:done")

class WorkerSettings:
    functions = [nothing]
    redis_settings = redis
    job_serializer, job_deserializer = dumps, json.loads
    poll_delay, max_jobs, queue_read_limit, keep_result, log_results = 0.02, 50, 1000, 0, False

@asynccontextmanager
async def lifespan(app):
    app.state.pool = await create_pool(redis, job_serializer=dumps, job_deserializer=json.loads)
    yield

app = FastAPI(lifespan=lifespan)

@app.get("/health/live")
async def live():
    return {}

@app.get("/left")
async def left():
    return await app.state.pool.zcard("arq:queue")

@app.post("/measured", status_code=202)
async def submit():
    job = await app.state.pool.enqueue_job("nothing", 1)
    return {"id": job.job_id}
"""

CELERY = """
import os
from celery import Celery
from fastapi import FastAPI

celery = Celery("bare", broker=os.environ["BROKER_URL"])
celery.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1, task_ignore_result=True,
    task_default_queue="bare", broker_connection_retry_on_startup=True, worker_soft_shutdown_timeout=1,
)
if os.environ["BROKER_URL"].startswith("amqp"):
    celery.conf.update(task_default_queue_type="quorum", broker_transport_options={"confirm_publish": True})

@celery.task(name="nothing")
def nothing(number):
    return number

app = FastAPI()

@app.get("/health/live")
async def live():
    return {}

@app.get("/left")
def left():
    with celery.connection_or_acquire() as connection:
        try:
            return connection.default_channel.queue_declare("bare", passive=True).message_count
        except Exception:  # with nothing in it, it is not there
            return 0

@app.post("/measured", status_code=202)
async def submit():
    return {"id": nothing.delay(1).id}
"""

TEXTS = {"arq": ARQ, "celery": CELERY}
