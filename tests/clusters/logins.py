"""Logs in with three drivers: good credentials must be served, bad ones refused. Arguments: a port where users are asked
of the cluster, a port with TLS, the authority's certificate, a client's certificate and its key."""

import asyncio
import ssl
import sys

import asyncpg
import pg8000.dbapi
import psycopg

asking, encrypted = int(sys.argv[1]), int(sys.argv[2])
authority, certificate, key = sys.argv[3:6]
failures = []


def check(what, serves, is_good):
    try:
        served = serves() == 1
        problem = "served"
    except Exception as error:
        served, problem = False, str(error)
    if served != is_good:
        failures.append(f"{what}: {'not served' if is_good else 'served'} ({problem})")


def context(with_certificate=False):
    made = ssl.create_default_context(cafile=authority)
    if with_certificate:
        made.load_cert_chain(certificate, key)
    return made


def by_psycopg(port, password, **more):
    def serves():
        settings = {"host": "localhost", "hostaddr": "127.0.0.1", "port": port, "user": "ada", "dbname": "bench"}
        with psycopg.connect(password=password, connect_timeout=10, **{**settings, **more}) as connection:
            return connection.execute("select 1").fetchone()[0]

    return serves


def by_asyncpg(port, password, database="bench", tls=None):
    async def one():
        connection = await asyncpg.connect(
            host="localhost" if tls else "127.0.0.1", port=port, user="ada", password=password, database=database, ssl=tls or False
        )
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    return lambda: asyncio.run(asyncio.wait_for(one(), 10))


def by_pg8000(port, password, database="bench", tls=None):
    def serves():
        host = "localhost" if tls else "127.0.0.1"
        connection = pg8000.dbapi.connect("ada", host=host, port=port, password=password, database=database, ssl_context=tls)
        cursor = connection.cursor()
        cursor.execute("select 1")
        value = cursor.fetchone()[0]
        connection.close()
        return value

    return serves


trusted = {"sslmode": "verify-full", "sslrootcert": authority}
shown = {**trusted, "sslcert": certificate, "sslkey": key, "dbname": "cert"}
for password, is_good in [("pencil", True), ("wrong", False)]:
    check(f"psycopg, asked of the cluster, {password}", by_psycopg(asking, password, sslmode="disable"), is_good)
    check(f"asyncpg, asked of the cluster, {password}", by_asyncpg(asking, password), is_good)
    check(f"pg8000, asked of the cluster, {password}", by_pg8000(asking, password), is_good)
    check(f"psycopg, TLS, {password}", by_psycopg(encrypted, password, **trusted), is_good)
    bound = {**trusted, "channel_binding": "require"}
    check(f"psycopg, bound to the channel, {password}", by_psycopg(encrypted, password, **bound), is_good)
    direct = {**bound, "sslnegotiation": "direct"}
    check(f"psycopg, TLS at once, {password}", by_psycopg(encrypted, password, **direct), is_good)
    check(f"asyncpg, TLS, {password}", by_asyncpg(encrypted, password, tls=context()), is_good)
    check(f"pg8000, bound to the channel, {password}", by_pg8000(encrypted, password, tls=context()), is_good)
check("psycopg, a certificate", by_psycopg(encrypted, "", **shown), True)
check("psycopg, no certificate", by_psycopg(encrypted, "", **{**trusted, "dbname": "cert"}), False)
check("asyncpg, a certificate", by_asyncpg(encrypted, None, "cert", context(True)), True)
check("asyncpg, no certificate", by_asyncpg(encrypted, None, "cert", context()), False)
check("pg8000, a certificate", by_pg8000(encrypted, None, "cert", context(True)), True)
check("pg8000, no certificate", by_pg8000(encrypted, None, "cert", context()), False)
print("\n".join(failures))
sys.exit(1 if failures else 0)
