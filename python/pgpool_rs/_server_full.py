"""Tell whether a connect failed since the server has no room for another session (SQLSTATE 53300).

psycopg2's error of a connect has no SQLSTATE, since libpq gives only the text, which the server writes in its own
language (`lc_messages`). So this looks for the texts of PostgreSQL's translations. It recognizes no text in another
language, nor one in an encoding that psycopg2 cannot read.
"""

from __future__ import annotations

from typing import Any, Final

from pgpool_rs._foreign import asked

# Of each language: max_connections, reserved slots, the limit of a role and that of a database.
_TEXTS: Final = (
    *("too many clients already", "remaining connection slots are reserved", "too many connections for "),
    "max_wal_senders",  # in every language: more replication connections than this setting allows
    *("no more connections allowed", "client connections exceeded"),  # PgBouncer: its limits, by 08P01
    *("zu viele Verbindungen", "die verbleibenden Verbindungen sind"),
    *("ya tenemos demasiados clientes", "las conexiones restantes est", "demasiadas conexiones para "),
    *("trop de clients sont", "emplacements de connexions restants", "trop de connexions pour "),
    *("troppi client", "i rimanenti slot di connessione", "troppe connessioni al"),
    *("クライアント数が多すぎます", "残りの接続スロット", "接続が多すぎます"),
    *("მეტისმეტად ბევრი", "ძალიან ბევრი კავშირი"),
    *("접속자 수를 초과", "남은 연결 슬롯", "접속수를 초과"),
    *("слишком много клиентов", "оставшиеся слоты подключений", "слишком много подключений"),
    *("för många klienter", "resterande anslutningsslottar", "för många uppkopplingar"),
    *("забагато клієнтів", "слоти підключень, які залишились", "занадто багато підключень"),
    *("已经有太多的客户", "已保留的连接位置", "的连接太多了"),
)


def is_server_full(error: Any) -> bool:
    """Return whether this error of a connect says that the server, or PgBouncer, takes no more connections now."""
    if getattr(error, "pgcode", None) == "53300":
        return True
    try:
        text = asked(str, error)
    except TypeError:
        return False
    return any(known in text for known in _TEXTS)
