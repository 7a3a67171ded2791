"""Backups: a copy of the database and of every object that it names, and a service made of one again.

A destination is a folder or a prefix of a bucket, for one deployment alone:

    backups/20260101T020000Z/manifest.json      what the backup is, written last: without it, it is none
    backups/20260101T020000Z/database.dump      of pg_dump
    backups/20260101T020000Z/objects.jsonl.gz   each object's key, size and sha256
    objects/9f/9f86d081…                        the objects' bytes by their sha256, once for all backups
    withdrawals.json                            what was erased, revoked or closed since the oldest of them
"""
