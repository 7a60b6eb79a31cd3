"""The service with FastAPI."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from dev.trials.services import told
from pgpool_rs.starlette import Database

db = Database(**told.SETTINGS)
app = FastAPI(lifespan=db.lifespan)


@app.get("/work")
def work(connection: Annotated[Any, Depends(db, scope="function")], seconds: float = 0.0) -> dict[str, Any]:
    """Work for some seconds."""
    return told.work(connection, seconds)


@app.get("/whole")
def whole() -> dict[str, Any]:
    """Borrow all of the pool."""
    return told.whole(db.pool)
