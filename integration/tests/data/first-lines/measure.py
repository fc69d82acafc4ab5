#!/usr/bin/env python3
"""Asks nginx, Node, Go, HAProxy and Apache what they take for the first line of a request.

Writes the five columns of servers into forms.tsv beside it, leaves the other columns as they are, and writes the table
of docs/detection.md from it. Needs the five programs in the path; each server runs from a temporary folder, on a port of
its own on loopback, as people have it without further settings. It takes some minutes. Nothing of it runs in the tests:
they read forms.tsv.

    python3 measure.py          asks the servers
    python3 measure.py --page   only writes the table
"""
import os, re, shutil, socket, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
SERVERS = ["nginx", "node", "go", "haproxy", "apache"]
REST = b"Host: a\r\nX-Probe: 1\r\nConnection: close\r\n\r\n"
WAIT = 1.5


def unescape(text):
    r"""The bytes of a form: \\r \\n \\t \\xHH, and {A*100} for repetition. `...` at the end: no headers follow."""
    text = re.sub(r"\{([^{}]+?)\*(\d+)\}", lambda m: m.group(1) * int(m.group(2)), text)
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def request(form):
    whole = form.endswith("...")
    data = unescape(form[:-3] if whole else form)
    return data if whole else data + (REST.replace(b"\r\n", b"\n") if data.endswith(b"\n") and not data.endswith(b"\r\n") else REST)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, data):
    """`taken`: the server's application saw a request. Else the status that refused it, or how the connection ended."""
    s = socket.create_connection(("127.0.0.1", port), 3)
    s.settimeout(WAIT)
    got = b""
    try:
        s.sendall(data)
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
    except TimeoutError:
        if not got:
            return "waits"
    except OSError:
        pass
    finally:
        s.close()
    status = re.match(rb"HTTP/\d\.\d (\d+)", got)
    if b"taken" in got:
        return "taken"
    if status and status.group(1) in (b"200", b"403", b"404", b"405", b"501"):
        return "taken"
    if not got and len(data) < 100_000:
        return "closed"
    # HTTP/0.9 has no status line: what came is the body of an answer or of an error.
    return status.group(1).decode() if status else ("400" if b"400" in got else "closed")


def start(folder):
    """Starts the five; gives ports, versions and processes."""
    ports = {name: free_port() for name in SERVERS}
    write = lambda name, text: open(os.path.join(folder, name), "w").write(text)
    os.mkdir(os.path.join(folder, "www"))
    write("www/index.html", "taken")
    write("nginx.conf", f"""daemon off; master_process off; pid {folder}/nginx.pid; error_log /dev/null;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{ports['nginx']}; location / {{ return 200 "taken"; }} }} }}
""")
    write("server.mjs", f"""import http from 'node:http';
http.createServer((q, s) => s.end('taken')).listen({ports['node']}, '127.0.0.1');
""")
    write("main.go", f"""package main
import "net/http"
func main() {{ http.ListenAndServe("127.0.0.1:{ports['go']}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {{ w.Write([]byte("taken")) }})) }}
""")
    write("haproxy.cfg", f"""defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend f
  bind 127.0.0.1:{ports['haproxy']}
  http-request return status 200 content-type text/plain string taken
""")
    modules = "/usr/lib/apache2/modules"
    write("apache.conf", f"""ServerRoot {folder}
ServerName a
PidFile {folder}/apache.pid
ErrorLog /dev/null
Listen 127.0.0.1:{ports['apache']}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule dir_module {modules}/mod_dir.so
DocumentRoot {folder}/www
FallbackResource /index.html
User www-data
Group www-data
""")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    run = lambda args, **more: subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    out = lambda *args: subprocess.run(args, capture_output=True, text=True).stdout + subprocess.run(args, capture_output=True, text=True).stderr
    subprocess.run(["go", "build", "-o", f"{folder}/server", f"{folder}/main.go"], check=True, cwd=folder, env={**os.environ, "GO111MODULE": "off"})
    processes = [
        run(["nginx", "-c", f"{folder}/nginx.conf", "-p", folder]),
        run(["node", f"{folder}/server.mjs"]),
        run([f"{folder}/server"]),
        run(["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"]),
        run(["apache2", "-X", "-f", f"{folder}/apache.conf"]),
    ]
    version = lambda text: re.search(r"\d+\.\d+(\.\d+)?", text).group(0)
    versions = [version(out("nginx", "-v")), version(out("node", "--version")), version(out("go", "version")), version(out("haproxy", "-v")), version(out("apache2", "-v"))]
    for name in SERVERS:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", ports[name]), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit(f"{name} does not listen")
    return ports, dict(zip(SERVERS, versions)), processes


def write_page(text):
    """The table of docs/detection.md, behind its last sentence."""
    path = os.path.join(HERE, "../../../../docs/detection.md")
    page = open(path).read()
    head = page[:page.index("\n\n", page.index("a test sends every form")) + 2]
    versions = re.search("# Servers: (.*)", text).group(1)
    rows = [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")]
    names = {"form": "First line", "requests": "Proxy: declared, or with routes", "anything": "Proxy: other ports"}
    table = ["| " + " | ".join(names.get(name, name) for name in rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    table += ["| `` " + row[0] + " `` | " + " | ".join(row[1:]) + " |" for row in rows[1:]]
    open(path, "w").write(head + versions + ".\n\n" + "\n".join(table) + "\n")


def main():
    path = os.path.join(HERE, "forms.tsv")
    if "--page" in sys.argv:
        return write_page(open(path).read())
    lines = open(path).read().split("\n")
    folder = tempfile.mkdtemp()
    processes = []
    try:
        ports, versions, processes = start(folder)
        plain = b"GET / HTTP/1.1\r\n" + REST
        for name in SERVERS:
            assert ask(ports[name], plain) == "taken", f"{name} does not take an ordinary request"
        for at, line in enumerate(lines):
            if line.startswith("# Servers:"):
                lines[at] = "# Servers: " + ", ".join(f"{name} {versions[name]}" for name in SERVERS)
            if not line or line.startswith("#") or line.startswith("form\t"):
                continue
            form, requests, anything, *_ = line.split("\t")
            lines[at] = "\t".join([form, requests, anything] + [ask(ports[name], request(form)) for name in SERVERS])
        open(path, "w").write("\n".join(lines))
        write_page("\n".join(lines))
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


main()
