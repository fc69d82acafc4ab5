// Answers REACHED where it takes a path for one below /admin: by ServeMux, or with `raw` by the decoded path as it came; and
// where it takes the host for admin.shop.
package main

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
)

func main() {
	reached := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "REACHED") }
	other := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "other") }
	mux := http.NewServeMux()
	mux.HandleFunc("/admin", reached)
	mux.HandleFunc("/admin/", reached)
	mux.HandleFunc("/", other)
	var handler http.Handler = mux
	if len(os.Args) > 2 && os.Args[2] == "raw" {
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cleaned := path.Clean("/" + r.URL.Path)
			if cleaned == "/admin" || strings.HasPrefix(cleaned, "/admin/") {
				reached(w, r)
			} else {
				other(w, r)
			}
		})
	}
	hosts := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(r.Host)), ":")
		if strings.TrimRight(host, ".") == "admin.shop" {
			reached(w, r)
		} else {
			handler.ServeHTTP(w, r)
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[1], hosts))
}
