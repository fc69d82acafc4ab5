// Command pki makes the certificates and keys of the test cluster: pki FOLDER ADDRESS... It is in Go, with nothing but
// its standard library, because everything around it is built by Go anyway, and because `cargo xtask` should not wait
// for a cryptography library that only this needs.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A cluster is thrown away long before.
const lifetime = 365 * 24 * time.Hour

type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: pki FOLDER ADDRESS...")
	}
	folder := os.Args[1]
	authority := issue(folder, "ca", nil, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "test cluster"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
	// An end entity, and said to be one: rustls refuses a server whose certificate is an authority's.
	serving := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "kube-apiserver"},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local",
		},
	}
	for _, text := range os.Args[2:] {
		address := net.ParseIP(text)
		if address == nil {
			log.Fatalf("%q is no IP address", text)
		}
		serving.IPAddresses = append(serving.IPAddresses, address)
	}
	issue(folder, "apiserver", authority, serving)
	// What the API server shows to the kubelet for logs, exec and port-forward.
	issue(folder, "apiserver-kubelet", authority, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "kube-apiserver-kubelet", Organization: []string{"system:masters"}},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	// Signs the tokens of service accounts.
	key := newKey()
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	check(err)
	writeKey(folder, "service-account", key)
	write(folder, "service-account.pub", "PUBLIC KEY", public, 0o644)
}

// issue signs with the issuer, or, where there is none, with the certificate's own key.
func issue(folder, name string, issuer *pair, template *x509.Certificate) *pair {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	check(err)
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = time.Now().Add(lifetime)
	made := &pair{template, newKey()}
	if issuer == nil {
		issuer = made
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.certificate, &made.key.PublicKey, issuer.key)
	check(err)
	made.certificate, err = x509.ParseCertificate(der)
	check(err)
	writeKey(folder, name, made.key)
	write(folder, name+".crt", "CERTIFICATE", der, 0o644)
	return made
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return key
}

func writeKey(folder, name string, key *ecdsa.PrivateKey) {
	der, err := x509.MarshalECPrivateKey(key)
	check(err)
	write(folder, name+".key", "EC PRIVATE KEY", der, 0o600)
}

func write(folder, name, kind string, der []byte, mode os.FileMode) {
	check(os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
