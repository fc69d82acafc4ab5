// Answers REACHED where it takes a path for one below /admin: as WHATWG URL reads it, and as a decoded and normalized path.
const http = require('node:http');
const path = require('node:path');

const isBelow = (read) => read === '/admin' || read.startsWith('/admin/');
const readings = [
  (url) => new URL(url, 'http://web').pathname,
  (url) => path.posix.normalize(decodeURIComponent(url.split('?')[0])),
  (url) => decodeURIComponent(new URL(url, 'http://web').pathname),
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
    response.end(isReached ? 'REACHED' : 'other');
  })
  .listen(Number(process.argv[2]), '127.0.0.1');
