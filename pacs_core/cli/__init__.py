"""The `pacs` command (Typer).

main      every command's name, arguments and help
errors    the boundary: an error becomes one line and an exit status (0 done, 1 it failed, 2 wrong usage)
output    tables, csv, json and Parquet; progress on a terminal, plain lines elsewhere
up        up
archive   listen, status, import
stopping  SIGTERM and SIGINT for a process that serves
network   echo, store, find, move, get
sql       the SQL command and console
manage    peer, flow
"""
