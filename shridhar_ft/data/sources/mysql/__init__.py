"""Dumps of MySQL and MariaDB: read as a stream of bytes, never executed."""
