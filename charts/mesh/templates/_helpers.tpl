{{/* Parts of several objects. Each takes a dict: root (the chart's dot) and component (identity, destination, injector). */}}

{{/* Labels of every object. */}}
{{- define "mesh.labels" -}}
app.kubernetes.io/name: mesh-{{ .component }}
app.kubernetes.io/part-of: mesh
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: meshctl
{{- end }}

{{/* Labels that Services and budgets find pods by. */}}
{{- define "mesh.selector" -}}
app.kubernetes.io/name: mesh-{{ .component }}
app.kubernetes.io/part-of: mesh
{{- end }}

{{/* An image of ours; takes root and name. */}}
{{- define "mesh.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Replicas of a component. */}}
{{- define "mesh.replicas" -}}
{{- $replicas := int (index .root.Values .component).replicas -}}
{{- if gt $replicas 0 }}{{ $replicas }}{{ else if .root.Values.ha }}2{{ else }}1{{ end }}
{{- end }}

{{/* What every Deployment says before its pods. */}}
{{- define "mesh.rollout" -}}
replicas: {{ include "mesh.replicas" . }}
revisionHistoryLimit: 3
selector:
  matchLabels:
    {{- include "mesh.selector" . | nindent 4 }}
strategy:
  type: RollingUpdate
  rollingUpdate:
    maxUnavailable: 0
    maxSurge: 1
{{- end }}

{{/* Labels and annotations of pods. */}}
{{- define "mesh.podMetadata" -}}
labels:
  {{- include "mesh.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .component }}
  {{- $own := .root.Values.podAnnotations }}
  {{- if and .root.Values.monitoring.scrapeAnnotations (not (or (index $own "prometheus.io/scrape") (index $own "prometheus.io/port") (index $own "prometheus.io/path"))) }}
  prometheus.io/scrape: "true"
  prometheus.io/port: "4652"
  prometheus.io/path: /metrics
  {{- end }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What every pod is, but for its containers and volumes. */}}
{{- define "mesh.pod" -}}
serviceAccountName: mesh-{{ .component }}
automountServiceAccountToken: true
enableServiceLinks: false
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: 4640
  runAsGroup: 4640
  fsGroup: 4640
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if gt (int (include "mesh.replicas" .)) 1 }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "mesh.selector" . | nindent 14 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "mesh.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* What every container is, but for its arguments, ports and mounts. */}}
{{- define "mesh.container" -}}
image: {{ include "mesh.image" (dict "root" .root "name" "mesh-controller") | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 4640
  runAsGroup: 4640
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
livenessProbe:
  httpGet:
    path: /live
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /ready
    port: metrics
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 3
resources:
  {{- toYaml (index .root.Values .component).resources | nindent 2 }}
{{- end }}

{{/* Arguments that every role takes. */}}
{{- define "mesh.arguments" -}}
- {{ .component }}
- --namespace={{ .root.Release.Namespace }}
- --trust-domain={{ .root.Values.trustDomain }}
- --metrics-listen=0.0.0.0:4652
- {{ printf "--log=%s" .root.Values.logLevel | quote }}
{{- end }}

{{/* Arguments, mount and volume of those that have their certificate from mesh-identity. */}}
{{- define "mesh.identityArguments" -}}
- --identity-addr=mesh-identity.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}:4650
- --token-file=/var/run/mesh/token
- --trust-bundle-file=/var/run/mesh/ca-bundle.pem
{{- end }}

{{- define "mesh.identityMount" -}}
- name: mesh-identity
  mountPath: /var/run/mesh
  readOnly: true
{{- end }}

{{- define "mesh.identityVolume" -}}
- name: mesh-identity
  projected:
    sources:
      - serviceAccountToken:
          path: token
          audience: identity.meshctl.dev
          expirationSeconds: 3600
      - configMap:
          name: mesh-trust-bundle
          items:
            - key: ca-bundle.pem
              path: ca-bundle.pem
{{- end }}

{{/* The trust anchors, or the reason why nothing can be installed. */}}
{{- define "mesh.trustAnchors" -}}
{{- if not .Values.identity.trustAnchors }}
{{- fail "identity.trustAnchors is empty: give the trust anchors (PEM), as in --set-file identity.trustAnchors=ca.crt, or use `meshctl install`, which makes them" }}
{{- end }}
{{- .Values.identity.trustAnchors | trim }}
{{- end }}

{{/* What both webhooks have in common. */}}
{{- define "mesh.webhook" -}}
admissionReviewVersions: [v1]
clientConfig:
  # Rendered once; mesh-identity's leader keeps it current from then on.
  caBundle: {{ include "mesh.trustAnchors" .root | b64enc }}
  service:
    name: mesh-injector
    namespace: {{ .root.Release.Namespace }}
    path: /inject
    port: 443
failurePolicy: {{ .failurePolicy }}
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
sideEffects: NoneOnDryRun
timeoutSeconds: 3
{{- end }}
