"""A stand-in for the Hugging Face Hub: the part of its HTTP API that pushing and pulling a model folder needs."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class HubServer(ThreadingHTTPServer):
    """Serves on a free port of this machine. Repositories are dictionaries from file name to content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'

    def __enter__(self) -> 'HubServer':
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def revision(self, repo: str) -> str:
        """Commit id: a digest of the content."""
        digest = hashlib.sha1()
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: HubServer

    def log_message(self, *_) -> None:
        pass

    def _body(self) -> bytes:
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b''.join(parts)
        return self.rfile.read(int(self.headers.get('Content-Length', 0)))

    def _answer(self, status: int, content: bytes = b'', **headers: str) -> None:
        self.send_response(status)
        for name, value in {'Content-Length': str(len(content)), **headers}.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type='application/json')

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition('?')[0]
        self.server.requests.append(f'POST {path}')
        if path == '/api/repos/create':
            request = json.loads(body)
            repo = '/'.join(filter(None, (request.get('organization'), request['name'])))
            self.server.repos.setdefault(repo, {})
            self._json({'url': f'{self.server.url}/{repo}', 'name': repo})
        elif path == '/api/validate-yaml':
            self._json({'errors': [], 'warnings': []})
        elif match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/.+', path):
            files = [file['path'] for file in json.loads(body)['files']]
            self._json({'files': [{'path': file, 'uploadMode': 'regular', 'shouldIgnore': False} for file in files]})
        elif match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/.+', path):
            for line in body.splitlines():
                item = json.loads(line)
                if item['key'] == 'file':
                    value = item['value']
                    self.server.repos[match[1]][value['path']] = base64.b64decode(value['content'])
            revision = self.server.revision(match[1])
            self._json({'commitUrl': f'{self.server.url}/{match[1]}/commit/{revision}', 'commitOid': revision})
        else:
            self._answer(404)

    def do_GET(self) -> None:
        path = self.path.partition('?')[0]
        self.server.requests.append(f'{self.command} {path}')
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            self._send_file(*match.groups())
        else:
            self._answer(404, X_Error_Code='RepoNotFound')

    do_HEAD = do_GET

    def _send_file(self, repo: str, _: str, name: str) -> None:
        if repo not in self.server.repos:
            self._answer(404, X_Error_Code='RepoNotFound')
        elif name not in self.server.repos[repo]:
            self._answer(404, X_Error_Code='EntryNotFound', X_Repo_Commit=self.server.revision(repo))
        else:
            content = self.server.repos[repo][name]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._answer(200, content, ETag=etag, X_Repo_Commit=self.server.revision(repo))
