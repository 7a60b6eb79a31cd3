"""The service with Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from dev.trials.services import told
from pgpool_rs.flask import Database

app = Flask(__name__)
app.config["PGPOOL"] = told.SETTINGS
db = Database(app)


@app.get("/work")
def work() -> dict[str, Any]:
    """Work for some seconds."""
    with db.transaction() as connection:
        return told.work(connection, request.args.get("seconds", 0.0, float))


@app.get("/whole")
def whole() -> dict[str, Any]:
    """Borrow all of the pool."""
    return told.whole(db.pool)
