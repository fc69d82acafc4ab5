// Answers REACHED where it takes a path for one below /admin: as WHATWG URL reads it, and as a decoded and normalized path; and
// where it takes the host for admin.shop, as WHATWG URL reads it and as it is.
const http = require('node:http');
const path = require('node:path');

const isBelow = (read) => read === '/admin' || read.startsWith('/admin/');
const readings = [
  (url) => new URL(url, 'http://web').pathname,
  (url) => path.posix.normalize(decodeURIComponent(url.split('?')[0])),
  (url) => decodeURIComponent(new URL(url, 'http://web').pathname),
];
const isHost = (host) => host.replace(/\.+$/, '') === 'admin.shop';
const hosts = [
  (request) => new URL(`http://${request.headers.host}`).hostname,
  (request) => new URL(request.url, `http://${request.headers.host}`).hostname,
  (request) => request.headers.host.toLowerCase().split(':')[0],
];
http
  .createServer((request, response) => {
    const isReached = readings.some((read) => {
      try {
        return isBelow(read(request.url));
      } catch {
        return false;
      }
    });
    const isNamed = hosts.some((read) => {
      try {
        return isHost(read(request));
      } catch {
        return false;
      }
    });
    response.end(isReached || isNamed ? 'REACHED' : 'other');
  })
  .listen(Number(process.argv[2]), '127.0.0.1');
