"""The service with Django: its settings, its pages and its application."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import OperationalError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from psycopg2.extensions import parse_dsn

from dev.trials.services import told
from pgpool_rs import PoolExhausted

_address = parse_dsn(told.SETTINGS["dsn"])
_pool = {name: value for name, value in told.SETTINGS.items() if name not in {"dsn", "application_name"}}
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "pgpool_rs.django",
            "NAME": _address.pop("dbname"),
            **{name.upper(): _address.pop(name) for name in ("user", "host", "port")},
            "OPTIONS": {"pool": _pool, "application_name": told.SETTINGS["application_name"], **_address},
        },
    },
    # Errors go to standard error, as the other services' do.
    LOGGING={
        "version": 1,
        "handlers": {"shown": {"class": "logging.StreamHandler"}},
        "loggers": {"django.request": {"handlers": ["shown"], "level": "ERROR", "propagate": False}},
    },
    ROOT_URLCONF="dev.trials.services.with_django",
    SECRET_KEY="of no use to anybody",
)
django.setup()


def work(request: HttpRequest) -> HttpResponse:
    """Work for some seconds."""
    try:
        connection.ensure_connection()
    except OperationalError as error:
        if not isinstance(error.__cause__, PoolExhausted):
            raise
        return HttpResponse(status=503, headers={"Retry-After": "1"})
    return JsonResponse(told.work(connection, float(request.GET.get("seconds", 0))))


def whole(_: HttpRequest) -> HttpResponse:
    """Borrow all of the pool."""
    connection.pool.open()  # This may be the first visit.
    return JsonResponse(told.whole(connection.pool))


urlpatterns = [path("work", work), path("whole", whole)]
app = get_wsgi_application()
