// registry serves the images of an OCI image layout, read-only: the part of the OCI distribution API that a pull needs.
//
//	registry LISTEN LAYOUT
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// index is the part of `index.json` that names images.
type index struct {
	Manifests []struct {
		MediaType   string
		Digest      string
		Annotations map[string]string
	}
}

// registry knows the digest and the media type of each reference.
type registry struct {
	layout  string
	digests map[string]string
	types   map[string]string
}

func open(layout string) (*registry, error) {
	text, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return nil, err
	}
	var index index
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, err
	}
	r := &registry{layout: layout, digests: map[string]string{}, types: map[string]string{}}
	for _, manifest := range index.Manifests {
		// HOST/NAME:TAG; nodes ask without the host.
		_, reference, _ := strings.Cut(manifest.Annotations["io.containerd.image.name"], "/")
		r.digests[reference] = manifest.Digest
		r.types[manifest.Digest] = manifest.MediaType
	}
	return r, nil
}

func (r *registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodGet && request.Method != http.MethodHead {
		http.Error(w, "this registry is read-only", http.StatusMethodNotAllowed)
		return
	}
	path, ok := strings.CutPrefix(request.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, request)
		return
	}
	if path == "" {
		return
	}
	name, reference, isManifest := strings.Cut(path, "/manifests/")
	if !isManifest {
		_, reference, _ = strings.Cut(path, "/blobs/")
	} else if digest, ok := r.digests[name+":"+reference]; ok {
		reference = digest
	}
	algorithm, hash, ok := strings.Cut(reference, ":")
	if !ok || algorithm != "sha256" || hash == "" || strings.ContainsAny(hash, "/.") {
		http.NotFound(w, request)
		return
	}
	mediaType := "application/octet-stream"
	if isManifest {
		mediaType = r.types[reference]
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", reference)
	http.ServeFile(w, request, filepath.Join(r.layout, "blobs", algorithm, hash))
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: registry LISTEN LAYOUT")
	}
	registry, err := open(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(os.Args[1], registry))
}
