"""A stand-in for the Hugging Face Hub: the part of its HTTP API that pushing and pulling a model folder needs.

As on the Hub, weights travel as Git LFS objects: they are uploaded to a store beside the repository, and a download is
redirected there. Its newer storage (Xet) is not a part of this; clients are to be run with `HF_HUB_DISABLE_XET=1`.
"""

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
        self.objects: dict[str, bytes] = {}  # of LFS, by SHA-256
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
            modes = {file: 'lfs' if file.endswith('.safetensors') else 'regular' for file in files}
            self._json({'files': [{'path': f, 'uploadMode': modes[f], 'shouldIgnore': False} for f in files]})
        elif re.fullmatch(r'/[^/]+/[^/]+\.git/info/lfs/objects/batch', path):
            objects = json.loads(body)['objects']
            actions = {o['oid']: {'upload': {'href': f'{self.server.url}/objects/{o["oid"]}'}} for o in objects}
            self._json({'transfer': 'basic', 'objects': [{**o, 'actions': actions[o['oid']]} for o in objects]})
        elif match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/.+', path):
            for line in body.splitlines():
                item = json.loads(line)
                value = item['value']
                if item['key'] == 'file':
                    self.server.repos[match[1]][value['path']] = base64.b64decode(value['content'])
                elif item['key'] == 'lfsFile':
                    self.server.repos[match[1]][value['path']] = self.server.objects[value['oid']]
            revision = self.server.revision(match[1])
            self._json({'commitUrl': f'{self.server.url}/{match[1]}/commit/{revision}', 'commitOid': revision})
        else:
            self._answer(404)

    def do_PUT(self) -> None:
        content, name = self._body(), self.path.rpartition('/')[2]
        self.server.requests.append(f'PUT {self.path}')
        if hashlib.sha256(content).hexdigest() == name:
            self.server.objects[name] = content
            self._answer(200)
        else:
            self._answer(400)

    def do_GET(self) -> None:
        path = self.path.partition('?')[0]
        self.server.requests.append(f'{self.command} {path}')
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            self._send_file(*match.groups())
        elif (name := path.removeprefix('/objects/')) in self.server.objects:
            self._answer(200, self.server.objects[name])
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
            sha, revision = hashlib.sha256(content).hexdigest(), self.server.revision(repo)
            if sha in self.server.objects:
                linked = {'X-Linked-Etag': f'"{sha}"', 'X-Linked-Size': str(len(content))}
                # By another host's name, as on the Hub: clients follow redirects to the same one to their end.
                url = f'http://localhost:{self.server.server_port}/objects/{sha}'
                self._answer(302, Location=url, ETag='"pointer"', X_Repo_Commit=revision, **linked)
            else:
                self._answer(200, content, ETag=f'"{sha}"', X_Repo_Commit=revision)
